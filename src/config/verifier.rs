//! What the accounts file holds of a password: enough to tell whether one is right, too little to use it.
//!
//! One verifier serves every door: SCRAM-SHA-256's (RFC 5802 and 7677), written as PostgreSQL writes it. With 65,536 rounds
//! it is as slow to guess as it needs to be, and a second, slower hash beside it would be no gain: whoever had the file would
//! guess at the faster one.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest as _, Md5};
use sha2::{Digest, Sha256};

/// Rounds of new verifiers.
const ITERATIONS: u32 = 65_536;
/// More would let a wrong file slow down everybody.
const MOST_ITERATIONS: u32 = 1_000_000;
const SALT_BYTES: usize = 16;
const SCHEME: &str = "SCRAM-SHA-256";

/// A verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// Rounds.
    pub iterations: u32,
    /// Makes equal passwords different.
    pub salt: Vec<u8>,
    /// The hash of the key that clients prove to have.
    pub stored_key: [u8; 32],
    /// The key that the server proves to have.
    pub server_key: [u8; 32],
}

/// Not for logs.
impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| STANDARD.encode(bytes);
        let Self { iterations, salt, stored_key, server_key } = self;
        write!(f, "{SCHEME}${iterations}:{}${}:{}", text(salt), text(stored_key), text(server_key))
    }
}

impl FromStr for Verifier {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "is no verifier of SCRAM-SHA-256";
        let rest = text.strip_prefix(SCHEME).and_then(|rest| rest.strip_prefix('$')).ok_or(FORM)?;
        let (rounds, rest) = rest.split_once(':').ok_or(FORM)?;
        let (salt, rest) = rest.split_once('$').ok_or(FORM)?;
        let (stored, server) = rest.split_once(':').ok_or(FORM)?;
        let iterations = rounds.parse().ok().filter(|rounds| (1..=MOST_ITERATIONS).contains(rounds)).ok_or(FORM)?;
        let bytes = |text: &str| STANDARD.decode(text).map_err(|_| FORM);
        let key = |text: &str| <[u8; 32]>::try_from(bytes(text)?).map_err(|_| FORM);
        Ok(Self { iterations, salt: bytes(salt)?, stored_key: key(stored)?, server_key: key(server)? })
    }
}

impl Verifier {
    /// The verifier of a password, with a new salt.
    pub fn of(password: &str) -> Self {
        let salt: [u8; SALT_BYTES] = rand::random();
        Self::with(password, salt.to_vec(), ITERATIONS)
    }

    /// A verifier that no password fits, always the same for one name: whoever asks about an account that does not exist
    /// learns nothing from the answer, nor from how long it takes.
    pub fn of_nobody(name: &str, secret: &[u8]) -> Self {
        let salt = mac(secret, name.as_bytes());
        let key = mac(secret, &salt);
        Self {
            iterations: ITERATIONS,
            salt: salt[..SALT_BYTES].to_vec(),
            stored_key: key,
            server_key: mac(secret, &key),
        }
    }

    fn with(password: &str, salt: Vec<u8>, iterations: u32) -> Self {
        let salted = salted(password, &salt, iterations);
        let stored_key = Sha256::digest(mac(&salted, b"Client Key")).into();
        Self { iterations, salt, stored_key, server_key: mac(&salted, b"Server Key") }
    }

    /// Whether a password is the right one.
    pub fn is_of(&self, password: &str) -> bool {
        let other = Self::with(password, self.salt.clone(), self.iterations);
        same(&other.stored_key, &self.stored_key)
    }

    /// Whether a client's proof for `message` is right (RFC 5802, section 3).
    pub fn is_proven(&self, message: &[u8], proof: &[u8]) -> bool {
        let signature = mac(&self.stored_key, message);
        let Ok(proof) = <[u8; 32]>::try_from(proof) else { return false };
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        same(&Sha256::digest(client_key), &self.stored_key)
    }

    /// What proves to the client that the server knows the verifier.
    pub fn signature(&self, message: &[u8]) -> [u8; 32] {
        mac(&self.server_key, message)
    }
}

/// PostgreSQL's `md5` verifier, for clients that know nothing newer: `md5` and the hash of password and name.
pub fn md5_of(password: &str, name: &str) -> String {
    format!("md5{}", hex(&Md5::digest([password.as_bytes(), name.as_bytes()].concat())))
}

/// What a client answers to a salt, given the `md5` verifier.
pub fn md5_answer(verifier: &str, salt: [u8; 4]) -> String {
    let inner = verifier.trim_start_matches("md5");
    format!("md5{}", hex(&Md5::digest([inner.as_bytes(), &salt].concat())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether two secrets are equal, in a time that does not tell where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    // Equal hashes under a key that nobody knows; comparing those tells nothing.
    let key: [u8; 32] = rand::random();
    mac(&key, a) == mac(&key, b)
}

fn mac(key: &[u8], message: &[u8]) -> [u8; 32] {
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// PBKDF2 with HMAC-SHA-256, one block (RFC 8018).
fn salted(password: &str, salt: &[u8], iterations: u32) -> [u8; 32] {
    let Ok(keyed) = Hmac::<Sha256>::new_from_slice(password.as_bytes()) else { return [0; 32] };
    let round = |message: &[&[u8]]| -> [u8; 32] {
        let mut mac = keyed.clone();
        message.iter().for_each(|part| mac.update(part));
        mac.finalize().into_bytes().into()
    };
    let mut last = round(&[salt, &1u32.to_be_bytes()]);
    let mut sum = last;
    for _ in 1..iterations {
        last = round(&[&last]);
        sum.iter_mut().zip(last).for_each(|(sum, byte)| *sum ^= byte);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exchange of RFC 7677, section 3.
    #[test]
    fn the_example_of_the_rfc_holds() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let verifier = Verifier::with("pencil", salt, 4096);
        let message = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
                       r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
                       c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        assert!(verifier.is_proven(message.as_bytes(), &proof));
        assert!(!verifier.is_proven(message.as_bytes(), &proof[1..]));
        assert!(!verifier.is_proven(b"another message", &proof));
        let signature = STANDARD.encode(verifier.signature(message.as_bytes()));
        assert_eq!(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_verifier_is_written_read_and_fits_one_password() {
        let verifier = Verifier::with("a secret", b"salt".to_vec(), 7);
        let again: Verifier = verifier.to_string().parse().unwrap();
        assert_eq!(again, verifier);
        assert!(again.is_of("a secret") && !again.is_of("a Secret"));
        assert_eq!(format!("{verifier:?}"), "Verifier");
        for wrong in ["", "md5abc", "SCRAM-SHA-256$0:c2FsdA==$x:y", "SCRAM-SHA-256$4096:c2FsdA==$c2FsdA==:c2FsdA=="] {
            assert!(wrong.parse::<Verifier>().is_err(), "{wrong}");
        }
        let nobody = Verifier::of_nobody("eve", b"secret");
        assert_eq!(nobody, Verifier::of_nobody("eve", b"secret"));
        assert_ne!(nobody, Verifier::of_nobody("ann", b"secret"));
    }

    #[test]
    fn md5_is_postgresqls() {
        // As PostgreSQL stores the password `secret` of `ann`.
        assert_eq!(md5_of("secret", "ann"), format!("md5{}", hex(&Md5::digest(b"secretann"))));
        assert_eq!(md5_answer(&md5_of("secret", "ann"), [1, 2, 3, 4]).len(), 35);
    }
}
