//! A hash that is the same at every gateway and in every build, for choices that all of them must make alike. Not for
//! tables whose keys an attacker chooses.

/// FNV-1a with MurmurHash3's finalizer, which spreads it over all bits.
pub fn of(bytes: &[u8]) -> u64 {
    let hash = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    spread(hash)
}

/// One hash of two.
pub fn pair(a: u64, b: u64) -> u64 {
    spread(a ^ b.rotate_left(32))
}

/// A number in 0..1, never 0.
pub fn unit(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 1.0) / (1_u64 << 53) as f64
}

fn spread(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}
