"""The worked examples of RFC 9001 appendix A, RFC 9369 appendix A and RFC 5869 appendix A."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from stoq.crypto import aead, keys

DCID = bytes.fromhex("8394c8f03e515708")
V1 = 0x00000001
V2 = 0x6B3343CF

CLIENT_HELLO = bytes.fromhex(
    "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868"
    "04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578"
    "616d706c652e636f6dff01000100000a00080006001d00170018001000070005"
    "04616c706e000500050100000000003300260024001d00209370b2c9caa47fba"
    "baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400"
    "0d0010000e0403050306030203080408050806002d00020101001c0002400100"
    "3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000"
    "75300901100f088394c8f03e51570806048000ffff"
)
CLIENT_PAYLOAD = CLIENT_HELLO.ljust(1162, b"\0")
SERVER_PAYLOAD = bytes.fromhex(
    "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf739"
    "88cfc79825df566dc5430b9a045a1200130100002e00330024001d00209d3c94"
    "0d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a002b00"
    "020304"
)

# RFC 9001 A.2
CLIENT_INITIAL_V1 = bytes.fromhex(
    "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11"
    "d242b123dc9bd8bab936b47d92ec356c0bab7df5976d27cd449f63300099f399"
    "1c260ec4c60d17b31f8429157bb35a1282a643a8d2262cad67500cadb8e7378c"
    "8eb7539ec4d4905fed1bee1fc8aafba17c750e2c7ace01e6005f80fcb7df6212"
    "30c83711b39343fa028cea7f7fb5ff89eac2308249a02252155e2347b63d58c5"
    "457afd84d05dfffdb20392844ae812154682e9cf012f9021a6f0be17ddd0c208"
    "4dce25ff9b06cde535d0f920a2db1bf362c23e596d11a4f5a6cf3948838a3aec"
    "4e15daf8500a6ef69ec4e3feb6b1d98e610ac8b7ec3faf6ad760b7bad1db4ba3"
    "485e8a94dc250ae3fdb41ed15fb6a8e5eba0fc3dd60bc8e30c5c4287e53805db"
    "059ae0648db2f64264ed5e39be2e20d82df566da8dd5998ccabdae053060ae6c"
    "7b4378e846d29f37ed7b4ea9ec5d82e7961b7f25a9323851f681d582363aa5f8"
    "9937f5a67258bf63ad6f1a0b1d96dbd4faddfcefc5266ba6611722395c906556"
    "be52afe3f565636ad1b17d508b73d8743eeb524be22b3dcbc2c7468d54119c74"
    "68449a13d8e3b95811a198f3491de3e7fe942b330407abf82a4ed7c1b311663a"
    "c69890f4157015853d91e923037c227a33cdd5ec281ca3f79c44546b9d90ca00"
    "f064c99e3dd97911d39fe9c5d0b23a229a234cb36186c4819e8b9c5927726632"
    "291d6a418211cc2962e20fe47feb3edf330f2c603a9d48c0fcb5699dbfe58964"
    "25c5bac4aee82e57a85aaf4e2513e4f05796b07ba2ee47d80506f8d2c25e50fd"
    "14de71e6c418559302f939b0e1abd576f279c4b2e0feb85c1f28ff18f58891ff"
    "ef132eef2fa09346aee33c28eb130ff28f5b766953334113211996d20011a198"
    "e3fc433f9f2541010ae17c1bf202580f6047472fb36857fe843b19f5984009dd"
    "c324044e847a4f4a0ab34f719595de37252d6235365e9b84392b061085349d73"
    "203a4a13e96f5432ec0fd4a1ee65accdd5e3904df54c1da510b0ff20dcc0c77f"
    "cb2c0e0eb605cb0504db87632cf3d8b4dae6e705769d1de354270123cb11450e"
    "fc60ac47683d7b8d0f811365565fd98c4c8eb936bcab8d069fc33bd801b03ade"
    "a2e1fbc5aa463d08ca19896d2bf59a071b851e6c239052172f296bfb5e724047"
    "90a2181014f3b94a4e97d117b438130368cc39dbb2d198065ae3986547926cd2"
    "162f40a29f0c3c8745c0f50fba3852e566d44575c29d39a03f0cda721984b6f4"
    "40591f355e12d439ff150aab7613499dbd49adabc8676eef023b15b65bfc5ca0"
    "6948109f23f350db82123535eb8a7433bdabcb909271a6ecbcb58b936a88cd4e"
    "8f2e6ff5800175f113253d8fa9ca8885c2f552e657dc603f252e1a8e308f76f0"
    "be79e2fb8f5d5fbbe2e30ecadd220723c8c0aea8078cdfcb3868263ff8f09400"
    "54da48781893a7e49ad5aff4af300cd804a6b6279ab3ff3afb64491c85194aab"
    "760d58a606654f9f4400e8b38591356fbf6425aca26dc85244259ff2b19c41b9"
    "f96f3ca9ec1dde434da7d2d392b905ddf3d1f9af93d1af5950bd493f5aa731b4"
    "056df31bd267b6b90a079831aaf579be0a39013137aac6d404f518cfd4684064"
    "7e78bfe706ca4cf5e9c5453e9f7cfd2b8b4c8d169a44e55c88d4a9a7f9474241"
    "e221af44860018ab0856972e194cd934"
)
# RFC 9001 A.3
SERVER_INITIAL_V1 = bytes.fromhex(
    "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a"
    "5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a1839b3"
    "dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84"
    "022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc4"
    "2158407dd074ee"
)
# RFC 9369 A.3
SERVER_INITIAL_V2 = bytes.fromhex(
    "dc6b3343cf0008f067a5502a4262b5004075d92faaf16f05d8a4398c47089698"
    "baeea26b91eb761d9b89237bbf87263017915358230035f7fd3945d88965cf17"
    "f9af6e16886c61bfc703106fbaf3cb4cfa52382dd16a393e42757507698075b2"
    "c984c707f0a0812d8cd5a6881eaf21ceda98f4bd23f6fe1a3e2c43edd9ce7ca8"
    "4bed8521e2e140"
)


class Secrets(NamedTuple):
    version: int
    client: str
    server: str


INITIAL_SECRETS = [
    Secrets(
        V1,
        "c00cf151ca5be075ed0ebfb5c80323c42d6b7db67881289af4008f1f6c357aea",
        "3c199828fd139efd216c155ad844cc81fb82fa8d7446fa7d78be803acdda951b",
    ),
    Secrets(
        V2,
        "14ec9d6eb9fd7af83bf5a668bc17a7e283766aade7ecd0891f70f9ff7f4bf47b",
        "0263db1782731bf4588e7e4d93b7463907cb8cd8200b5da55a8bd488eafc37c1",
    ),
]


@pytest.mark.parametrize("row", INITIAL_SECRETS, ids=["v1", "v2"])
def test_initial_secrets(row: Secrets) -> None:
    client, server = keys.initial_secrets(row.version, DCID)
    assert client.hex() == row.client
    assert server.hex() == row.server


def test_labels_of_version_1() -> None:
    """RFC 9001 A.1, step by step with the public functions."""
    salt = bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a")
    initial = keys.hkdf_extract("sha256", salt, DCID)
    assert initial.hex() == "7db5df06e7a69e432496adedb00851923595221596ae2ae9fb8115c1e9ed0a44"
    client = keys.hkdf_expand_label("sha256", initial, b"client in", b"", 32)
    assert client.hex() == INITIAL_SECRETS[0].client
    assert keys.hkdf_expand_label("sha256", client, b"quic key", b"", 16).hex() == "1f369613dd76d5467730efcbe3b1a22d"
    assert keys.hkdf_expand_label("sha256", client, b"quic iv", b"", 12).hex() == "fa044b2f42a3fd3b46fb255c"
    assert keys.hkdf_expand_label("sha256", client, b"quic hp", b"", 16).hex() == "9f50449e04a0e810283a1e9933adedd2"


class Packet(NamedTuple):
    version: int
    server: bool
    header: str
    payload: bytes
    pn: int
    protected: bytes


PACKETS = {
    "client initial v1": Packet(
        V1, False, "c300000001088394c8f03e5157080000449e00000002", CLIENT_PAYLOAD, 2, CLIENT_INITIAL_V1
    ),
    "server initial v1": Packet(
        V1, True, "c1000000010008f067a5502a4262b50040750001", SERVER_PAYLOAD, 1, SERVER_INITIAL_V1
    ),
    "server initial v2": Packet(
        V2, True, "d16b3343cf0008f067a5502a4262b50040750001", SERVER_PAYLOAD, 1, SERVER_INITIAL_V2
    ),
}


@pytest.mark.parametrize("packet", PACKETS.values(), ids=PACKETS)
def test_initial_packets(packet: Packet) -> None:
    secret = keys.initial_secrets(packet.version, DCID)[packet.server]
    key = keys.packet_key(packet.version, aead.AES_128_GCM, secret)
    header = bytes.fromhex(packet.header)
    assert key.encrypt_packet(header, packet.payload, packet.pn) == packet.protected
    pn_length = (header[0] & 3) + 1
    opened = key.decrypt_packet(packet.protected, len(header) - pn_length, 0)
    assert opened == (header, packet.payload, packet.pn)


@pytest.mark.parametrize(
    ("sample", "mask"),
    [("d1b1c98dd7689fb8ec11d242b123dc9b", "437b9aec36"), ("ffe67b6abcdb4298b485dd04de806071", "94a0c95e80")],
    ids=["v1", "v2"],
)
def test_header_masks_of_the_client_initial(sample: str, mask: str) -> None:
    version = V1 if mask == "437b9aec36" else V2
    key = keys.packet_key(version, aead.AES_128_GCM, keys.initial_secrets(version, DCID)[0])
    assert key.header_mask(bytes.fromhex(sample)).hex() == mask


@pytest.mark.parametrize(
    ("version", "retry"),
    [
        (V1, "ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba"),
        (V2, "cf6b3343cf0008f067a5502a4262b5746f6b656ec8646ce8bfe33952d955543665dcc7b6"),
    ],
    ids=["v1", "v2"],
)
def test_retry_integrity_tag(version: int, retry: str) -> None:
    packet = bytes.fromhex(retry)
    assert keys.retry_integrity_tag(version, DCID, packet[:-16]) == packet[-16:]
    assert keys.retry_integrity_tag(version, DCID[:-1], packet[:-16]) != packet[-16:]


class Short(NamedTuple):
    version: int
    key: str
    iv: str
    hp: str
    ku: str
    ciphertext: str
    sample: str
    mask: str
    packet: str


CHACHA_SECRET = bytes.fromhex("9ac312a7f877468ebe69422748ad00a15443f18203a07d6060f688f30f21632b")
CHACHA = {
    "v1": Short(
        V1,
        key="c6d98ff3441c3fe1b2182094f69caa2ed4b716b65488960a7a984979fb23e1c8",
        iv="e0459b3474bdd0e44a41c144",
        hp="25a282b9e82f06f21f488917a4fc8f1b73573685608597d0efcb076b0ab7a7a4",
        ku="1223504755036d556342ee9361d253421a826c9ecdf3c7148684b36b714881f9",
        ciphertext="655e5cd55c41f69080575d7999c25a5bfb",
        sample="5e5cd55c41f69080575d7999c25a5bfb",
        mask="aefefe7d03",
        packet="4cfe4189655e5cd55c41f69080575d7999c25a5bfb",
    ),
    "v2": Short(
        V2,
        key="3bfcddd72bcf02541d7fa0dd1f5f9eeea817e09a6963a0e6c7df0f9a1bab90f2",
        iv="a6b5bc6ab7dafce30ffff5dd",
        hp="d659760d2ba434a226fd37b35c69e2da8211d10c4f12538787d65645d5d1b8e2",
        ku="c69374c49e3d2a9466fa689e49d476db5d0dfbc87d32ceeaa6343fd0ae4c7d88",
        ciphertext="0ae7b6b932bc27d786f4bc2bb20f2162ba",
        sample="e7b6b932bc27d786f4bc2bb20f2162ba",
        mask="97580e32bf",
        packet="5558b1c60ae7b6b932bc27d786f4bc2bb20f2162ba",
    ),
}


@pytest.mark.parametrize("row", CHACHA.values(), ids=CHACHA)
def test_chacha20_short_header_packet(row: Short) -> None:
    header = bytes.fromhex("4200bff4")
    pn = 654360564
    raw = aead.PacketKey(aead.CHACHA20_POLY1305, bytes.fromhex(row.key), bytes.fromhex(row.iv), bytes.fromhex(row.hp))
    derived = keys.packet_key(row.version, aead.CHACHA20_POLY1305, CHACHA_SECRET)
    for key in (raw, derived):
        assert key.seal(pn, header, b"\x01").hex() == row.ciphertext
        assert key.header_mask(bytes.fromhex(row.sample)).hex() == row.mask
        assert key.encrypt_packet(header, b"\x01", pn).hex() == row.packet
        assert key.decrypt_packet(bytes.fromhex(row.packet), 1, pn) == (header, b"\x01", pn)
    assert keys.next_secret(row.version, aead.CHACHA20_POLY1305, CHACHA_SECRET).hex() == row.ku


class Hkdf(NamedTuple):
    ikm: bytes
    salt: bytes
    info: bytes
    length: int
    prk: str
    okm: str


# RFC 5869 A.1 to A.3 (A.4 to A.7 are for SHA-1).
HKDF = [
    Hkdf(
        b"\x0b" * 22,
        bytes(range(13)),
        bytes(range(0xF0, 0xFA)),
        42,
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    Hkdf(
        bytes(range(0x50)),
        bytes(range(0x60, 0xB0)),
        bytes(range(0xB0, 0x100)),
        82,
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
        "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
        "cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    Hkdf(
        b"\x0b" * 22,
        b"",
        b"",
        42,
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize("row", HKDF, ids=["A.1", "A.2", "A.3"])
def test_hkdf_sha256(row: Hkdf) -> None:
    prk = keys.hkdf_extract("sha256", row.salt, row.ikm)
    assert prk.hex() == row.prk
    assert keys.hkdf_expand("sha256", prk, row.info, row.length).hex() == row.okm
