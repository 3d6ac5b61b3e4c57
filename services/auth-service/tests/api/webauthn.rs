//! WebAuthn by itself: the test vectors of W3C WebAuthn Level 3 section 16, and CBOR that nobody should write.

use auth_service::webauthn::{
    Assertion, Ceremony, NewCredential, Refusal, Registration, RelyingParty, Used,
    cbor::{self, Malformed, Value},
};
use proptest::prelude::*;

use crate::authenticator::{bytes, integer, map, text};

/// Of all the vectors: SHA-256 of `example.org`.
const RP_ID_HASH: &str = "bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b5";

/// Section 16.2, ES256 with no attestation.
const NONE_ID: &str = "f91f391db4c9b2fde0ea70189cba3fb63f579ba6122b33ad94ff3ec330084be4";
const NONE_OBJECT: &str = "a363666d74646e6f6e656761747453746d74a068617574684461746158a4bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b559000000008446ccb9ab1db374750b2367ff6f3a1f0020f91f391db4c9b2fde0ea70189cba3fb63f579ba6122b33ad94ff3ec330084be4a5010203262001215820afefa16f97ca9b2d23eb86ccb64098d20db90856062eb249c33a9b672f26df61225820930a56b87a2fca66334b03458abf879717c12cc68ed73290af2e2664796b9220";
const NONE_CREATE: &str = "7b2274797065223a22776562617574686e2e637265617465222c226368616c6c656e6765223a22414d4d507434557878475453746e63647134313759447742466938767049612d7077386f4f755657345441222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73652c22657874726144617461223a22636c69656e74446174614a534f4e206d617920626520657874656e6465642077697468206164646974696f6e616c206669656c647320696e20746865206675747572652c207375636820617320746869733a20426b5165446a646354427258426941774a544c4535513d3d227d";
const NONE_DATA: &str = "bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b51900000000";
const NONE_GET: &str = "7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a224f63446e55685158756c5455506f334a5558543049393770767a7a59425039745a63685879617630314167222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73657d";
const NONE_SIGNATURE: &str = "3046022100f50a4e2e4409249c4a853ba361282f09841df4dd4547a13a87780218deffcd380221008480ac0f0b93538174f575bf11a1dd5d78c6e486013f937295ea13653e331e87";

/// Section 16.3, ES256 with self attestation.
const SELF_ID: &str = "455ef34e2043a87db3d4afeb39bbcb6cc32df9347c789a865ecdca129cbef58c";
const SELF_OBJECT: &str = "a363666d74667061636b65646761747453746d74a263616c67266373696758483046022100ae045923ded832b844cae4d5fc864277c0dc114ad713e271af0f0d371bd3ac540221009077a088ed51a673951ad3ba2673d5029bab65b64f4ea67b234321f86fcfac5d68617574684461746158a4bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b55d00000000df850e09db6afbdfab51697791506cfc0020455ef34e2043a87db3d4afeb39bbcb6cc32df9347c789a865ecdca129cbef58ca5010203262001215820eb151c8176b225cc651559fecf07af450fd85802046656b34c18f6cf193843c5225820927b8aa427a2be1b8834d233a2d34f61f13bfd44119c325d5896e183fee484f2";
const SELF_CREATE: &str = "7b2274797065223a22776562617574686e2e637265617465222c226368616c6c656e6765223a2265476e4374334c55745936366b336a506a796e6962506b31716e666644616966715a774c33417032392d55222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73652c22657874726144617461223a22636c69656e74446174614a534f4e206d617920626520657874656e6465642077697468206164646974696f6e616c206669656c647320696e20746865206675747572652c207375636820617320746869733a205539685458764b453255526b4d6e625f3078594856673d3d227d";

/// Section 16.11, Ed25519 with a maker's attestation.
const EDDSA_ID: &str = "ce9f840ed96599580cd140fbc7bb3230633f50f61041aff73308ae71caa8a2bd";
const EDDSA_OBJECT: &str = "a363666d74667061636b65646761747453746d74a363616c67266373696758483046022100d83f60bd80269537583218858aefb03ac57d45fa06e42feaae332d187f62da9f022100a02bd3cb6f7e1d283c93bad1f3f4b5a4c0494463da7fdbf256949116754d1f17637835638159022730820223308201c8a003020102021100b2cfc9ea33c8643b0e1a760463eaf164300a06082a8648ce3d0403023062311e301c06035504030c15576562417574686e207465737420766563746f7273310c300a060355040a0c0357334331253023060355040b0c1c41757468656e74696361746f72204174746573746174696f6e204341310b30090603550406130241413020170d3234303130313030303030305a180f33303234303130313030303030305a305f311e301c06035504030c15576562417574686e207465737420766563746f7273310c300a060355040a0c0357334331223020060355040b0c1941757468656e74696361746f72204174746573746174696f6e310b30090603550406130241413059301306072a8648ce3d020106082a8648ce3d03010703420004dd2b7a564b73b8c0b81c4c62e521925c4d1198ec9f583dbf1eebe364b65cd9c29a9bdf346aaa81fb6b9507e5249a52fdaf8e39e26b0b7dc45992a7e233b70f70a360305e300c0603551d130101ff04023000300e0603551d0f0101ff040403020780301d0603551d0e041604140ae27546bc7eccb1b4b597bd354f0c0b1f1f8f8e301f0603551d2304183016801445aff715b0dd786741fee996ebc16547a3931b1e300a06082a8648ce3d0403020349003046022100a0d434ecb5fc3bfd7da5f41904517ad2836249f561bd834ba7a438a8ab7a4ce8022100fac845bb7a02513b58e9f319654dbe49b0f02b95835bac568c71f8a18cdde9ab6861757468446174615881bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b54100000000d5aa33581e8ca478e20fe713f5d32ff20020ce9f840ed96599580cd140fbc7bb3230633f50f61041aff73308ae71caa8a2bda401010327200621582044e06ddd331c36a8dc667bab52bcae63486c916aa5e339e6acebaa84934bf832";
const EDDSA_CREATE: &str = "7b2274797065223a22776562617574686e2e637265617465222c226368616c6c656e6765223a22714b763532723347734e396a526d733576616e6f6f306f303459557a656c6e7878586d5a426e6254733730222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73652c22657874726144617461223a22636c69656e74446174614a534f4e206d617920626520657874656e6465642077697468206164646974696f6e616c206669656c647320696e20746865206675747572652c207375636820617320746869733a20425f44543567375a445f2d394f544c59583549764551227d";
const EDDSA_DATA: &str = "bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b50100000000";
const EDDSA_GET: &str = "7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a2269566c583442786a4f6d6d44534b4c596f7870557439736e364d48454f7943413135726947514a6e763949222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73657d";
const EDDSA_SIGNATURE: &str = "f5c59c7e46c34f6f8cc197101ddf9934fa2595f68eb1913a637e8419eb9ba4cfdfc48f85393bc0d40b011f0d6fecb097d6607525713223a0dc0d453993dae00b";

/// Section 16.10, RS256. Its attestation is left out here; the credential is its own.
const RSA_ID: &str = "992a18acc83f67533600c1138a4b4c4bd236de13629cf025ed17cb00b00b74df";
const RSA_AAGUID: &str = "428f8878298b9862a36ad8c7527bfef2";
const RSA_DATA: &str = "bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b51900000000";
const RSA_GET: &str = "7b2274797065223a22776562617574686e2e676574222c226368616c6c656e6765223a224b56395a39667150356978617970346e596d7834794e6f33617562597a5333536d75757459423462784d55222c226f726967696e223a2268747470733a2f2f6578616d706c652e6f7267222c2263726f73734f726967696e223a66616c73657d";
const RSA_SIGNATURE: &str = "01063d52d7c39b4d432fc7063c5d93e582bdcb16889cd71f888d67d880ea730a428498d3bc8e1ee11f2b1ecbe6c292b118c55ffaaddefa8cad0a54dd137c51f1eec673f1bb6c4d1789d6826a222b22d0f585fc901fdc933212e579d199b89d672aa44891333e6a1355536025e82b25590256c3538229b55737083b2f6b9377e49e2472f11952f79fdd0da180b5ffd901b4049a8f081bb40711bef76c62aed943571f2d0575304cb549d68d8892f95086a30f93716aee818f8dc06e96c0d5e0ed4cfa9fd8773d90464b68cf140f7986666ff9c9e3302acd0535d60d769f465e2ab57ef8aabc89fccfef7ba32a64154a8b3d26be2298f470b8cc5377dbe3dfd4b0b45f8f01e63bde6cfc76b62771f9b70aa27cf40152cad93aa5acd784fd4b90f676e2ea828d0bf2400aebbaae4153e5838f537f88b6228346782a93a899be66ec77de45b3efcf311da6321c92e6b0cd11bfe653bf3e98cee8e341f02d67dbb6f9c98d9e8178090cfb5b70fbc6d541599ac794ae2f1d4de1286ec8de8c2daf7b1d15c8438e90d924df5c19045220a4c8438c1b979bbe016cf3d0eeec23c3999d4882cc645b776de930756612cdc6dd398160ff02a6";

fn party() -> RelyingParty {
    RelyingParty { id: "example.org".to_owned(), origins: vec!["https://example.org".to_owned()] }
}

fn unhex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn register(id: &str, client_data: &str, object: &[u8], must_verify: bool) -> Result<NewCredential, Refusal> {
    let registration =
        Registration { credential_id: unhex(id), client_data: unhex(client_data), attestation_object: object.to_vec() };
    let data = party().client_data(Ceremony::Create, &registration.client_data)?;
    assert_eq!(data.challenge.len(), 32);
    party().register(&data, &registration, must_verify)
}

fn assertion(id: &str, client_data: &str, data: &str, signature: &str) -> Assertion {
    Assertion {
        credential_id: unhex(id),
        client_data: unhex(client_data),
        authenticator_data: unhex(data),
        signature: unhex(signature),
        user_handle: None,
    }
}

fn authenticate(credential: &NewCredential, assertion: &Assertion, must_verify: bool) -> Result<Used, Refusal> {
    let data = party().client_data(Ceremony::Get, &assertion.client_data)?;
    party().authenticate(&data, assertion, &credential.key, must_verify)
}

/// The RSA key of section 16.10, whose primes are 2^1279 - 1 and 2^2203 - 1, in authenticator data of our own making.
fn rsa_object(rp_id_hash: &str) -> Vec<u8> {
    let mut modulus = [0_u8; 436];
    for bit in (1279..=2202).chain(2204..=3481).chain([0]) {
        modulus[435 - bit / 8] |= 1 << (bit % 8);
    }
    let key = map(&[
        (integer(1), integer(3)),
        (integer(3), integer(-257)),
        (integer(-1), bytes(&modulus)),
        (integer(-2), bytes(&[1, 0, 1])),
    ]);
    let head = unhex(&format!("{rp_id_hash}5d00000000{RSA_AAGUID}0020{RSA_ID}"));
    map(&[(text("fmt"), text("none")), (text("attStmt"), map(&[])), (text("authData"), bytes(&[head, key].concat()))])
}

#[test]
fn the_vectors_of_the_standard_hold() {
    let none = register(NONE_ID, NONE_CREATE, &unhex(NONE_OBJECT), false).unwrap();
    assert!(none.backup_eligible && none.backed_up);
    let shown = assertion(NONE_ID, NONE_GET, NONE_DATA, NONE_SIGNATURE);
    let used = authenticate(&none, &shown, false).unwrap();
    assert_eq!(used, Used { user_verified: false, sign_count: 0, backup_eligible: true, backed_up: true });

    register(SELF_ID, SELF_CREATE, &unhex(SELF_OBJECT), true).unwrap();

    let eddsa = register(EDDSA_ID, EDDSA_CREATE, &unhex(EDDSA_OBJECT), false).unwrap();
    let of_eddsa = assertion(EDDSA_ID, EDDSA_GET, EDDSA_DATA, EDDSA_SIGNATURE);
    authenticate(&eddsa, &of_eddsa, false).unwrap();

    let rsa = register(RSA_ID, SELF_CREATE, &rsa_object(RP_ID_HASH), true).unwrap();
    authenticate(&rsa, &assertion(RSA_ID, RSA_GET, RSA_DATA, RSA_SIGNATURE), false).unwrap();

    // A signature is its own key's, over its own data, by its own algorithm.
    for (key, shown) in [
        (&none, &of_eddsa),
        (&eddsa, &shown),
        (&rsa, &shown),
        (&none, &assertion(RSA_ID, RSA_GET, RSA_DATA, RSA_SIGNATURE)),
    ] {
        assert_eq!(authenticate(key, shown, false), Err(Refusal::Signature));
    }
}

#[test]
fn vectors_that_were_changed_do_not() {
    let none = register(NONE_ID, NONE_CREATE, &unhex(NONE_OBJECT), false).unwrap();
    let good = assertion(NONE_ID, NONE_GET, NONE_DATA, NONE_SIGNATURE);
    assert_eq!(authenticate(&none, &good, true), Err(Refusal::NotVerified));
    assert_eq!(register(NONE_ID, NONE_CREATE, &unhex(NONE_OBJECT), true), Err(Refusal::NotVerified));
    for index in 0..good.authenticator_data.len() {
        let mut changed = good.clone();
        changed.authenticator_data[index] ^= 1;
        assert!(authenticate(&none, &changed, false).is_err(), "byte {index} of the authenticator data");
    }
    for index in 0..good.client_data.len() {
        let mut changed = good.clone();
        changed.client_data[index] ^= 1;
        assert!(authenticate(&none, &changed, false).is_err(), "byte {index} of the client data");
    }
    // A registration is no assertion, and the other way round.
    assert!(party().client_data(Ceremony::Get, &unhex(NONE_CREATE)).is_err());
    let of_get = party().client_data(Ceremony::Get, &good.client_data).unwrap();
    let registration = Registration {
        credential_id: unhex(NONE_ID),
        client_data: good.client_data.clone(),
        attestation_object: unhex(NONE_OBJECT),
    };
    assert_eq!(party().register(&of_get, &registration, false), Err(Refusal::ClientData("of another ceremony")));
    // A self attestation of other client data, and one that was cut anywhere.
    assert_eq!(register(SELF_ID, NONE_CREATE, &unhex(SELF_OBJECT), true), Err(Refusal::Signature));
    let object = unhex(SELF_OBJECT);
    for length in 0..object.len() {
        assert!(register(SELF_ID, SELF_CREATE, &object[..length], true).is_err(), "cut at {length}");
    }
    let other = "00".repeat(32);
    assert!(register(RSA_ID, SELF_CREATE, &rsa_object(&other), true).is_err(), "another relying party");
}

#[test]
fn client_data_are_of_our_pages_alone() {
    let read = |json: &str| party().client_data(Ceremony::Get, json.as_bytes()).map(|_| ());
    let good = r#"{"type":"webauthn.get","challenge":"AAAA","origin":"https://example.org"}"#;
    assert_eq!(read(good), Ok(()));
    for (what, bad) in [
        ("another origin", good.replace("example.org", "example.org.evil.test")),
        ("a port", good.replace("example.org", "example.org:8443")),
        ("no TLS", good.replace("https", "http")),
        ("in a frame", good.replace('}', r#","crossOrigin":true}"#)),
        ("under another page", good.replace('}', r#","topOrigin":"https://example.org"}"#)),
        ("the origin twice", good.replace('}', r#","origin":"https://example.org"}"#)),
        ("padding", good.replace("AAAA", "AAA=")),
        ("not the type", good.replace("webauthn.get", "payment.get")),
        ("too long", good.replace('}', &format!(r#","more":"{}"}}"#, "x".repeat(5000)))),
        ("no object", "[]".to_owned()),
    ] {
        assert!(read(&bad).is_err(), "{what}");
    }
}

#[test]
fn cbor_that_authenticators_do_not_write_is_refused() {
    let refused = [
        ("nothing", ""),
        ("a tag", "c001"),
        ("a float", "f93c00"),
        ("undefined", "f7"),
        ("an open array", "9fff"),
        ("open bytes", "5f4100ff"),
        ("a reserved length", "1c"),
        ("not the shortest", "1817"),
        ("not the shortest length", "590001aa"),
        ("cut bytes", "42aa"),
        ("more bytes than there are", "5bffffffffffffffff"),
        ("more items than there are", "9a00000010"),
        ("a key twice", "a201010102"),
        ("a key that is bytes", "a1410000"),
        ("something behind", "0000"),
        ("five levels", "818181818100"),
        ("no UTF-8", "61ff"),
        ("too large a number", "1bffffffffffffffff"),
    ];
    for (what, text) in refused {
        assert_eq!(cbor::read_all(&unhex(text)), Err(Malformed), "{what}");
    }
    assert_eq!(cbor::read_all(&unhex("3bffffffffffffffff")), Err(Malformed));
    assert_eq!(cbor::read_all(&unhex("3b7fffffffffffffff")), Ok(Value::Integer(i64::MIN)));
    assert_eq!(cbor::read(&unhex("f500")).unwrap(), (Value::Bool(true), &[0_u8][..]));
}

proptest! {
    #[test]
    fn no_bytes_make_the_readers_fall_over(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = cbor::read(&noise);
        let _ = register(NONE_ID, NONE_CREATE, &noise, false);
        let mut object = unhex(EDDSA_OBJECT);
        let at = object.len() - 77;
        object.truncate(at);
        object.extend_from_slice(&noise);
        let _ = register(EDDSA_ID, EDDSA_CREATE, &object, false);
    }

    #[test]
    fn what_is_written_is_read(number in -65_536_i64..65_536, content in proptest::collection::vec(any::<u8>(), 0..300), words in "[a-zé]{0,40}") {
        let written = map(&[(integer(number), bytes(&content)), (text(&words), integer(number))]);
        let read = cbor::read_all(&written).unwrap();
        prop_assert_eq!(read.get(number).and_then(Value::bytes), Some(content.as_slice()));
        prop_assert_eq!(read.get(words.as_str()).and_then(Value::integer), Some(number));
    }
}
