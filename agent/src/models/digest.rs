//! The checksums by which a fetched file is known to be the right one.

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// What a file must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// The SHA-256 of its bytes.
    Sha256([u8; 32]),
    /// Its id in git: the SHA-1 of a header and its bytes.
    GitBlob([u8; 20]),
    /// The MD5 of its bytes.
    Md5([u8; 16]),
    /// CRC-64/NVME of its bytes.
    Crc64Nvme(u64),
    /// Nothing but its size is known.
    Size,
}

impl Check {
    /// A SHA-256 in hex.
    pub(super) fn sha256(hex: &str) -> Option<Self> {
        bytes(hex).map(Self::Sha256)
    }

    /// A git blob's id in hex.
    pub(super) fn git_blob(hex: &str) -> Option<Self> {
        bytes(hex).map(Self::GitBlob)
    }

    /// An MD5 in hex.
    pub(super) fn md5(hex: &str) -> Option<Self> {
        bytes(hex).map(Self::Md5)
    }
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if hex.len() != 2 * N || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// A checksum in the making.
pub(super) enum Sum {
    Sha256(Sha256, [u8; 32]),
    GitBlob(Sha1, [u8; 20]),
    Md5(Md5, [u8; 16]),
    Crc64Nvme(Crc64, u64),
    Size,
}

impl Sum {
    /// Begins one for a file of `size` bytes.
    pub(super) fn new(check: Check, size: u64) -> Self {
        match check {
            Check::Sha256(want) => Self::Sha256(Sha256::new(), want),
            Check::GitBlob(want) => {
                let header = format!("blob {size}\0");
                Self::GitBlob(Sha1::new_with_prefix(header.as_bytes()), want)
            }
            Check::Md5(want) => Self::Md5(Md5::new(), want),
            Check::Crc64Nvme(want) => Self::Crc64Nvme(Crc64::new(), want),
            Check::Size => Self::Size,
        }
    }

    pub(super) fn add(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum, _) => sum.update(bytes),
            Self::GitBlob(sum, _) => sum.update(bytes),
            Self::Md5(sum, _) => sum.update(bytes),
            Self::Crc64Nvme(sum, _) => sum.add(bytes),
            Self::Size => {}
        }
    }

    /// Whether the bytes were the right ones.
    pub(super) fn matches(self) -> bool {
        match self {
            Self::Sha256(sum, want) => <[u8; 32]>::from(sum.finalize()) == want,
            Self::GitBlob(sum, want) => <[u8; 20]>::from(sum.finalize()) == want,
            Self::Md5(sum, want) => <[u8; 16]>::from(sum.finalize()) == want,
            Self::Crc64Nvme(sum, want) => sum.value() == want,
            Self::Size => true,
        }
    }
}

/// CRC-64/NVME, which S3 keeps of whole objects however they were uploaded. Eight bytes at a time.
pub(super) struct Crc64(u64);

/// The polynomial, its bits in reverse.
const POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;
/// `TABLES[k][b]`: what byte `b` does to the sum when `k` bytes follow it in the same word.
static TABLES: [[u64; 256]; 8] = tables();

#[expect(clippy::indexing_slicing, reason = "constant bounds, checked when compiled")]
const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        let mut value = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ POLYNOMIAL } else { value >> 1 };
            bit += 1;
        }
        tables[0][byte] = value;
        byte += 1;
    }
    let mut table = 1;
    while table < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            byte += 1;
        }
        table += 1;
    }
    tables
}

impl Crc64 {
    fn new() -> Self {
        Self(!0)
    }

    fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            let mixed = (self.0 ^ u64::from_le_bytes(*word)).to_le_bytes();
            self.0 =
                mixed.iter().zip(TABLES.iter().rev()).fold(0, |sum, (byte, table)| sum ^ at(table, *byte));
        }
        for byte in rest {
            let [low, ..] = (self.0 ^ u64::from(*byte)).to_le_bytes();
            self.0 = (self.0 >> 8) ^ TABLES.first().map_or(0, |table| at(table, low));
        }
    }

    fn value(&self) -> u64 {
        !self.0
    }
}

#[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
fn at(table: &[u64; 256], byte: u8) -> u64 {
    table[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_right(check: Check, text: &[u8]) -> bool {
        let mut sum = Sum::new(check, text.len() as u64);
        // In two uneven parts, as bytes come.
        let (first, second) = text.split_at(text.len() / 3);
        sum.add(first);
        sum.add(second);
        sum.matches()
    }

    #[test]
    fn known_checksums_are_right_and_others_are_not() {
        let text = b"123456789";
        for check in [
            Check::sha256("15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
            Check::md5("25f9e794323b453885f5181f1b624d0b"),
            Some(Check::Crc64Nvme(0xae8b_1486_0a79_9888)),
        ]
        .into_iter()
        .flatten()
        {
            assert!(is_right(check, text), "{check:?}");
            assert!(!is_right(check, b"123456788"), "{check:?}");
            assert!(!is_right(check, b""), "{check:?}");
        }
        assert!(is_right(Check::Size, text));
    }

    #[test]
    fn gits_id_of_a_file_counts_its_header() {
        let empty = Check::git_blob("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391").expect("hex");
        assert!(is_right(empty, b""));
        let hello = Check::git_blob("ce013625030ba8dba906f756967f9e9ca394464a").expect("hex");
        assert!(is_right(hello, b"hello\n"));
        assert!(!is_right(hello, b"hello"));
    }

    #[test]
    fn the_fast_sum_is_the_slow_one() {
        let text: Vec<u8> = (0..1_000u32).map(|at| (at * 7 % 251) as u8).collect();
        let slow = |text: &[u8]| {
            !text.iter().fold(!0u64, |sum, byte| {
                (0..8).fold(sum ^ u64::from(*byte), |sum, _| (sum >> 1) ^ (POLYNOMIAL * (sum & 1)))
            })
        };
        for length in [0, 1, 7, 8, 9, 63, 1_000] {
            assert!(is_right(Check::Crc64Nvme(slow(&text[..length])), &text[..length]), "{length}");
        }
    }

    #[test]
    fn what_is_no_checksum_is_none() {
        for hex in ["", "xyz", &"g".repeat(64), &"+1".repeat(32), &"a".repeat(63)] {
            assert_eq!(Check::sha256(hex), None, "{hex}");
        }
    }
}
