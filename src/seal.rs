//! A checksum inside of the file that it is of: it is made while 64 zeros stand in its place.

use sha2::{Digest, Sha256};

/// What stands in the place of the checksum while it is made.
pub(crate) const NO_CHECKSUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Puts the checksum in the place of the first [`NO_CHECKSUM`]; `None` if there is none.
pub(crate) fn seal(bytes: &mut [u8]) -> Option<()> {
    let place = find(bytes, NO_CHECKSUM)?;
    let checksum = format!("{:x}", Sha256::digest(&*bytes));
    bytes[place..][..checksum.len()].copy_from_slice(checksum.as_bytes());
    Some(())
}

/// The checksum that a file should have which is sealed with `sealed`; `None` if those aren't 64 digits that it holds.
pub(crate) fn checksum(bytes: &[u8], sealed: &str) -> Option<String> {
    if sealed.len() != NO_CHECKSUM.len() {
        return None;
    }
    let (before, rest) = bytes.split_at(find(bytes, sealed)?);
    let digest =
        Sha256::new().chain_update(before).chain_update(NO_CHECKSUM).chain_update(&rest[sealed.len()..]).finalize();
    Some(format!("{digest:x}"))
}

fn find(bytes: &[u8], text: &str) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_a_sealed_file_can_change() {
        let mut bytes = format!("{{\"sha256\":\"{NO_CHECKSUM}\"}} and some weights").into_bytes();
        seal(&mut bytes).unwrap();
        let sealed = String::from_utf8(bytes[11..][..64].to_vec()).unwrap();
        assert_eq!(checksum(&bytes, &sealed).as_ref(), Some(&sealed));
        for bit in 0..8 * bytes.len() {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let found = String::from_utf8_lossy(&other[11..][..64]).into_owned();
            assert_ne!(checksum(&other, &found), Some(found), "bit {bit}");
        }
        assert_eq!(checksum(&bytes, ""), None);
    }
}
