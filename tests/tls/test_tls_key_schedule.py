"""RFC 8448 §3, "Simple 1-RTT Handshake": the published messages give the published secrets."""

from __future__ import annotations

import hashlib

import pytest

from stoq.crypto import signatures
from stoq.crypto.chain import PeerChain
from stoq.crypto.groups import GROUPS, X25519
from stoq.crypto.signatures import RSA_PSS_RSAE_SHA256, SCHEMES, SignatureError
from stoq.tls import messages
from stoq.tls.alerts import AlertDescription, TlsAlert
from stoq.tls.client import check_finished
from stoq.tls.key_schedule import KeySchedule
from stoq.tls.suites import SUITES, TLS_AES_128_GCM_SHA256, TLS_AES_256_GCM_SHA384

CLIENT_HELLO = bytes.fromhex(
    "010000c00303cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece7000006130113031302010000910000000b"
    "0009000006736572766572ff01000100000a00140012001d0017001800190100010101020103010400230000003300260024001d002099"
    "381de560e4bd43d23d8e435a7dbafeb3c06e51c13cae4d5413691e529aaf2c002b0003020304000d0020001e0403050306030203080408"
    "05080604010501060102010402050206020202002d00020101001c00024001"
)
SERVER_HELLO = bytes.fromhex(
    "020000560303a6af06a4121860dc5e6e60249cd34c95930c8ac5cb1434dac155772ed3e2692800130100002e00330024001d0020c98288"
    "76112095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f002b00020304"
)
ENCRYPTED_EXTENSIONS = bytes.fromhex("080000240022000a00140012001d00170018001901000101010201030104001c0002400100000000")
CERTIFICATE = bytes.fromhex(
    "0b0001b9000001b50001b0308201ac30820115a003020102020102300d06092a864886f70d01010b0500300e310c300a06035504031303"
    "727361301e170d3136303733303031323335395a170d3236303733303031323335395a300e310c300a0603550403130372736130819f30"
    "0d06092a864886f70d010101050003818d0030818902818100b4bb498f8279303d980836399b36c6988c0c68de55e1bdb826d3901a2461"
    "eafd2de49a91d015abbc9a95137ace6c1af19eaa6af98c7ced43120998e187a80ee0ccb0524b1b018c3e0b63264d449a6d38e22a5fda43"
    "0846748030530ef0461c8ca9d9efbfae8ea6d1d03e2bd193eff0ab9a8002c47428a6d35a8d88d79f7f1e3f0203010001a31a3018300906"
    "03551d1304023000300b0603551d0f0404030205a0300d06092a864886f70d01010b05000381810085aad2a0e5b9276b908c65f73a7267"
    "170618a54c5f8a7b337d2df7a594365417f2eae8f8a58c8f8172f9319cf36b7fd6c55b80f21a03015156726096fd335e5e67f2dbf10270"
    "2e608ccae6bec1fc63a42a99be5c3eb7107c3c54e9b9eb2bd5203b1c3b84e0a8b2f759409ba3eac9d91d402dcc0cc8f8961229ac9187b4"
    "2b4de10000"
)
CERTIFICATE_VERIFY = bytes.fromhex(
    "0f000084080400805a747c5d88fa9bd2e55ab085a61015b7211f824cd484145ab3ff52f1fda8477b0b7abc90db78e2d33a5c141a078653"
    "fa6bef780c5ea248eeaaa785c4f394cab6d30bbe8d4859ee511f602957b15411ac027671459e46445c9ea58c181e818e95b8c3fb0bf327"
    "8409d3be152a3da5043e063dda65cdf5aea20d53dfacd42f74f3"
)
SERVER_FINISHED = bytes.fromhex("140000209b9b141d906337fbd2cbdce71df4deda4ab42c309572cb7fffee5454b78f0718")
CLIENT_FINISHED = bytes.fromhex("14000020a8ec436d677634ae525ac1fcebe11a039ec17694fac6e98527b642f2edd5ce61")
CLIENT_PRIVATE = bytes.fromhex("49af42ba7f7994852d713ef2784bcbcaa7911de26adc5642cb634540e7ea5005")
SERVER_PRIVATE = bytes.fromhex("b1580eeadf6dd589b8ef4f2d5652578cc810e9980191ec8d058308cea216a21e")
SHARED = bytes.fromhex("8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d")


def test_messages_parse() -> None:
    hello = messages.parse_client_hello(CLIENT_HELLO)
    assert hello.suites == (0x1301, 0x1303, 0x1302)
    assert messages.parse_server_name(hello.extensions[0]) == "server"
    share = messages.parse_client_shares(hello.extensions[51], (0x1D,))[X25519]
    answer = messages.parse_server_hello(SERVER_HELLO)
    group, server_share = messages.parse_server_share(answer.extensions[51])
    assert (group, answer.suite, answer.version) == (X25519, 0x1301, 0x0303)
    row = GROUPS[X25519]
    private, sent = row.generate(lambda n: CLIENT_PRIVATE)
    assert sent == share
    assert row.finish(private, server_share) == SHARED
    assert row.respond(share, lambda n: SERVER_PRIVATE) == (server_share, SHARED)
    assert messages.server_hello(answer.random, 0x1301, X25519, server_share) != SERVER_HELLO  # order of extensions
    assert set(messages.parse_encrypted_extensions(ENCRYPTED_EXTENSIONS)) == {10, 28, 0}


def test_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "RSA_MODULUS_MIN", 1024)  # the trace's key
    schedule = KeySchedule(SUITES[TLS_AES_128_GCM_SHA256], CLIENT_HELLO + SERVER_HELLO)
    client, server = schedule.handshake_secrets(SHARED)
    assert client.hex() == "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21"
    assert server.hex() == "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"
    schedule.transcript.update(ENCRYPTED_EXTENSIONS + CERTIFICATE)
    chain = messages.parse_certificate(CERTIFICATE, frozenset())
    scheme, signature = messages.parse_certificate_verify(CERTIFICATE_VERIFY)
    assert scheme == RSA_PSS_RSAE_SHA256
    SCHEMES[scheme].verify(chain.public_key, signature, schedule.signed_by_server())
    with pytest.raises(SignatureError):
        SCHEMES[scheme].verify(chain.public_key, signature, schedule.signed_by_client())
    schedule.transcript.update(CERTIFICATE_VERIFY)
    check_finished(schedule, server, SERVER_FINISHED)
    assert messages.finished(schedule.verify_data(server)) == SERVER_FINISHED
    schedule.transcript.update(SERVER_FINISHED)
    client_application, server_application = schedule.application_secrets()
    assert client_application.hex() == "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"
    assert server_application.hex() == "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"
    assert schedule.exporter_secret.hex() == "fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50"
    assert messages.finished(schedule.verify_data(client)) == CLIENT_FINISHED
    with pytest.raises(TlsAlert) as caught:
        check_finished(schedule, server, CLIENT_FINISHED)
    assert caught.value.description is AlertDescription.DECRYPT_ERROR


def test_chain_of_the_trace() -> None:
    chain = messages.parse_certificate(CERTIFICATE, frozenset())
    assert chain.certificates == (CERTIFICATE[11:-2],)
    assert chain.digest == hashlib.sha256(b"\0\0\x01\xb0" + CERTIFICATE[11:-2]).digest()
    assert PeerChain(chain.certificates).leaf == chain.leaf


def test_hash_of_the_suite_decides_the_lengths() -> None:
    schedule = KeySchedule(SUITES[TLS_AES_256_GCM_SHA384], CLIENT_HELLO + SERVER_HELLO)
    assert [len(s) for s in schedule.handshake_secrets(SHARED)] == [48, 48]
    assert schedule.exporter_secret == b""
    assert [len(s) for s in schedule.application_secrets()] == [48, 48]
    assert len(schedule.export(b"label", b"", 255 * 48)) == 255 * 48
    for label, length in ((b"x" * 250, 1), (b"x", 255 * 48 + 1), (b"x", 0)):
        with pytest.raises(ValueError, match="exporter"):
            schedule.export(label, b"", length)
    before = schedule.export(b"label", b"context", 32)
    schedule.forget_transcript()
    assert schedule.export(b"label", b"context", 32) == before
