//! What the authenticator says (section 6.1): for whom, whether somebody was there, and of a new credential its key.

use super::{
    LONGEST_CREDENTIAL_ID, Refusal,
    cbor::{self, Value},
};

const USER_PRESENT: u8 = 1 << 0;
const USER_VERIFIED: u8 = 1 << 2;
const BACKUP_ELIGIBLE: u8 = 1 << 3;
const BACKED_UP: u8 = 1 << 4;
const ATTESTED: u8 = 1 << 6;
const EXTENSIONS: u8 = 1 << 7;
const AAGUID: usize = 16;

/// All of it but extensions, of which none is asked for.
pub(super) struct AuthenticatorData<'b> {
    pub rp_id_hash: &'b [u8],
    pub user_present: bool,
    pub user_verified: bool,
    pub backup_eligible: bool,
    pub backed_up: bool,
    pub sign_count: u32,
    pub attested: Option<Attested<'b>>,
}

/// A new credential (section 6.5.1).
pub(super) struct Attested<'b> {
    pub credential_id: &'b [u8],
    pub key: Value<'b>,
}

impl<'b> AuthenticatorData<'b> {
    /// Reads all of `bytes`.
    ///
    /// # Errors
    /// They are cut, something follows, or the flags contradict each other.
    pub(super) fn read(bytes: &'b [u8]) -> Result<Self, Refusal> {
        let cut = Refusal::AuthenticatorData("cut");
        let (rp_id_hash, rest) = bytes.split_at_checked(32).ok_or(cut)?;
        let (&[flags, count @ ..], mut rest) = rest.split_first_chunk::<5>().ok_or(cut)?;
        let is = |flag: u8| flags & flag != 0;
        if is(BACKED_UP) && !is(BACKUP_ELIGIBLE) {
            return Err(Refusal::AuthenticatorData("backed up, though it may not be"));
        }
        let mut attested = None;
        if is(ATTESTED) {
            let (_, after) = rest.split_at_checked(AAGUID).ok_or(cut)?;
            let (length, after) = after.split_first_chunk::<2>().ok_or(cut)?;
            let length = usize::from(u16::from_be_bytes(*length));
            if !(1..=LONGEST_CREDENTIAL_ID).contains(&length) {
                return Err(Refusal::AuthenticatorData("a credential's name of no decent length"));
            }
            let (credential_id, after) = after.split_at_checked(length).ok_or(cut)?;
            let (key, after) = cbor::read(after)?;
            attested = Some(Attested { credential_id, key });
            rest = after;
        }
        if is(EXTENSIONS) {
            let (extensions, after) = cbor::read(rest)?;
            extensions.map().ok_or(Refusal::AuthenticatorData("extensions are no map"))?;
            rest = after;
        }
        if !rest.is_empty() {
            return Err(Refusal::AuthenticatorData("something follows"));
        }
        Ok(Self {
            rp_id_hash,
            user_present: is(USER_PRESENT),
            user_verified: is(USER_VERIFIED),
            backup_eligible: is(BACKUP_ELIGIBLE),
            backed_up: is(BACKED_UP),
            sign_count: u32::from_be_bytes(count),
            attested,
        })
    }
}
