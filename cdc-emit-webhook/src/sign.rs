//! Standard Webhooks signatures and the ids they cover.

use std::fmt;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use cdc_core::Position;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

const PREFIX: &str = "whsec_";

/// A signing secret: `whsec_` and 24 to 64 bytes in base64. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct Secret(Hmac<Sha256>);

/// Text is not a signing secret. Holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// It does not start with `whsec_`.
    #[error("read a webhook secret: it does not start with whsec_")]
    Prefix,
    /// What follows is not base64.
    #[error("read a webhook secret: what follows whsec_ is not base64")]
    Base64,
    /// It is too short to be safe, or longer than the standard allows.
    #[error(
        "read a webhook secret: it has {len} bytes, 24 to 64 are needed; make one with `echo whsec_$(openssl rand -base64 32)`"
    )]
    Length {
        /// Its length in bytes, decoded.
        len: usize,
    },
}

impl Secret {
    /// Reads a secret; white space around it (a file's last line feed) is left out.
    ///
    /// # Errors
    /// [`SecretError`]
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &base64::alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let encoded = text
            .trim()
            .strip_prefix(PREFIX)
            .ok_or(SecretError::Prefix)?;
        let key = LENIENT.decode(encoded).map_err(|_| SecretError::Base64)?;
        let wrong_length = SecretError::Length { len: key.len() };
        if !(24..=64).contains(&key.len()) {
            return Err(wrong_length);
        }
        Hmac::new_from_slice(&key)
            .map(Self)
            .map_err(|_| wrong_length)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The value of `webhook-signature`: one `v1,<base64>` a secret, separated by spaces. Covered is
/// `id.timestamp.body`, with the body as it goes over the wire.
pub(crate) fn signature(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let mut header = String::new();
    for Secret(key) in secrets {
        let mut mac = key.clone();
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        let separator = if header.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _ = write!(
            header,
            "{separator}v1,{}",
            STANDARD.encode(mac.finalize().into_bytes())
        );
    }
    header
}

/// The id of a batch: the same whenever the same emitter sends the same events, and another if even
/// one of them is another, for receivers may skip an id they know. (First, last and count do not
/// tell: of several workers each has every n-th key.) No dots, as the standard demands.
pub(crate) fn batch_id(
    emitter: &str,
    first: &str,
    positions: impl Iterator<Item = Position>,
) -> String {
    let mut hash = Sha256::new();
    for part in [emitter, first] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    for position in positions {
        hash.update(position.commit.0.to_be_bytes());
        hash.update(position.ordinal.to_be_bytes());
    }
    let mut id = String::from("cdc_");
    for byte in hash.finalize().iter().take(16) {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_own_example_verifies() {
        // From the Standard Webhooks reference libraries' tests.
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let header = signature(
            &[secret],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(header, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn several_keys_give_several_signatures() {
        let key =
            |fill: u8| Secret::parse(&format!("whsec_{}", STANDARD.encode([fill; 32]))).unwrap();
        let both = signature(&[key(1), key(2)], "id", 1, b"x");
        let alone = [key(1), key(2)].map(|key| signature(&[key], "id", 1, b"x"));
        assert_eq!(both, alone.join(" "));
    }

    #[test]
    fn secrets_are_checked_and_not_shown() {
        let encoded = |len: usize| format!("whsec_{}\n", STANDARD.encode(vec![7; len]));
        assert!(Secret::parse(&encoded(24)).is_ok());
        assert!(Secret::parse(&encoded(64)).is_ok());
        assert!(Secret::parse(encoded(25).trim().trim_end_matches('=')).is_ok());
        assert_eq!(
            Secret::parse(&encoded(23)).unwrap_err(),
            SecretError::Length { len: 23 }
        );
        assert_eq!(
            Secret::parse(&encoded(65)).unwrap_err(),
            SecretError::Length { len: 65 }
        );
        assert_eq!(Secret::parse("hunter2").unwrap_err(), SecretError::Prefix);
        assert_eq!(Secret::parse("whsec_!").unwrap_err(), SecretError::Base64);
        assert_eq!(
            format!("{:?}", Secret::parse(&encoded(24)).unwrap()),
            "Secret"
        );
    }

    #[test]
    fn ids_tell_batches_apart() {
        let id = |emitter, first, ordinals: &[u32]| {
            let positions = ordinals.iter().map(|n| Position::new(cdc_core::Lsn(5), *n));
            batch_id(emitter, first, positions)
        };
        let known = id("a", "x", &[1, 2, 5]);
        assert_eq!(known, id("a", "x", &[1, 2, 5]));
        assert_eq!(known.len(), 36);
        assert!(known[4..].bytes().all(|b| b.is_ascii_hexdigit()));
        for other in [
            id("b", "x", &[1, 2, 5]),
            id("a", "y", &[1, 2, 5]),
            // The same first, last and count.
            id("a", "x", &[1, 4, 5]),
            id("a", "x", &[1, 2]),
            id("a", "x", &[1, 2, 5, 6]),
        ] {
            assert_ne!(known, other);
        }
    }
}
