# The send sources that every connection has, as a table in order of urgency (DESIGN §4 "Send sources").
from stoq.core.state cimport SourceTable

cdef const SourceTable *default_sources() noexcept nogil
