//! How values become payloads: bincode 2 in its standard configuration, in this file only.

use crate::record::MAX_VALUE_BYTES;

/// The most memory a length inside a payload may claim. bincode counts elements by their size in memory, which can be
/// hundreds of times their encoded size: a limit near [`MAX_VALUE_BYTES`] would refuse what [`encode`] accepted.
const MAX_DECODED_BYTES: usize = 16 * 1024 * 1024;

/// Why a value did not become bytes, or bytes no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The encoded value is over the limit.
    #[error("value of {bytes} bytes is over the limit of {MAX_VALUE_BYTES}")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// The value cannot be encoded.
    #[error("value cannot be encoded: {reason}")]
    Encode {
        /// What the encoder said.
        reason: String,
    },
    /// The bytes are no such value.
    #[error("bytes cannot be decoded: {reason}")]
    Decode {
        /// What the decoder said.
        reason: String,
    },
}

/// The payload for `value`.
///
/// # Errors
/// If the result is larger than [`MAX_VALUE_BYTES`], or the value has a part that has no encoding.
pub fn encode<T: bincode::Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::encode_to_vec(value, bincode::config::standard())
        .map_err(|error| CodecError::Encode { reason: error.to_string() })?;
    if bytes.len() > MAX_VALUE_BYTES {
        return Err(CodecError::TooLarge { bytes: bytes.len() });
    }
    Ok(bytes)
}

/// The value in `payload`, which must be all of it.
///
/// # Errors
/// If the bytes are no `T`, hold more than one, or are over the limit.
pub fn decode<T: bincode::Decode<()>>(payload: &[u8]) -> Result<T, CodecError> {
    if payload.len() > MAX_VALUE_BYTES {
        return Err(CodecError::TooLarge { bytes: payload.len() });
    }
    let config = bincode::config::standard().with_limit::<MAX_DECODED_BYTES>();
    let (value, used) = bincode::decode_from_slice(payload, config)
        .map_err(|error| CodecError::Decode { reason: error.to_string() })?;
    if used != payload.len() {
        let reason = format!("{} bytes left over", payload.len().saturating_sub(used));
        return Err(CodecError::Decode { reason });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, bincode::Encode, bincode::Decode)]
    struct Sample {
        name: String,
        ports: Vec<u16>,
        note: Option<String>,
    }

    fn sample() -> Sample {
        Sample { name: "alpha".to_owned(), ports: vec![80, 8080], note: None }
    }

    #[test]
    fn a_value_comes_back_and_its_bytes_stay() {
        let bytes = encode(&sample()).unwrap();
        assert_eq!(bytes, [5, b'a', b'l', b'p', b'h', b'a', 2, 80, 251, 0x90, 0x1F, 0]);
        assert_eq!(decode::<Sample>(&bytes), Ok(sample()));
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        let mut bytes = encode(&sample()).unwrap();
        bytes.push(0);
        assert!(matches!(decode::<Sample>(&bytes), Err(CodecError::Decode { .. })));
        bytes.truncate(4);
        assert!(matches!(decode::<Sample>(&bytes), Err(CodecError::Decode { .. })));
    }

    #[test]
    fn the_limit_holds_both_ways() {
        let just = vec![0_u8; MAX_VALUE_BYTES - 3];
        let bytes = encode(&just).unwrap();
        assert_eq!(bytes.len(), MAX_VALUE_BYTES);
        assert!(decode::<Vec<u8>>(&bytes) == Ok(just));
        let over = vec![0_u8; MAX_VALUE_BYTES];
        assert_eq!(encode(&over), Err(CodecError::TooLarge { bytes: MAX_VALUE_BYTES + 3 }));
        let too_long = vec![0; MAX_VALUE_BYTES + 1];
        let refused = decode::<Vec<u8>>(&too_long);
        assert_eq!(refused, Err(CodecError::TooLarge { bytes: MAX_VALUE_BYTES + 1 }));
    }

    #[test]
    fn whatever_can_be_encoded_can_be_decoded() {
        let wide = vec![None::<[u64; 32]>; MAX_VALUE_BYTES - 3];
        let bytes = encode(&wide).unwrap();
        assert!(decode::<Vec<Option<[u64; 32]>>>(&bytes) == Ok(wide));
    }

    #[test]
    fn a_length_that_lies_does_not_allocate() {
        assert!(matches!(
            decode::<Vec<u8>>(&[253, 255, 255, 255, 255, 255, 255, 255, 0]),
            Err(CodecError::Decode { .. })
        ));
    }
}
