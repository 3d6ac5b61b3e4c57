//! Reads the part of CBOR (RFC 8949) that authenticators write: CTAP2's canonical form. Definite lengths, shortest integers, no
//! tag, no float, no key twice, four levels at most. Borrowed from the input, so nothing is allocated on a length's word.

const DEEPEST: u8 = 4;
const MOST_ITEMS: u64 = 64;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'b> {
    /// 0 and more, or less than 0.
    Integer(i64),
    Bytes(&'b [u8]),
    Text(&'b str),
    Array(Vec<Value<'b>>),
    Map(Vec<(Value<'b>, Value<'b>)>),
    Bool(bool),
    Null,
}

/// Not what an authenticator writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed CBOR")]
pub struct Malformed;

/// Reads one value, and nothing may follow.
///
/// # Errors
/// [`Malformed`].
pub fn read_all(bytes: &[u8]) -> Result<Value<'_>, Malformed> {
    match read(bytes)? {
        (value, []) => Ok(value),
        _ => Err(Malformed),
    }
}

/// Reads one value; the rest comes with it.
///
/// # Errors
/// [`Malformed`].
pub fn read(bytes: &[u8]) -> Result<(Value<'_>, &[u8]), Malformed> {
    let mut reader = Reader { rest: bytes };
    let value = reader.value(DEEPEST)?;
    Ok((value, reader.rest))
}

impl<'b> Value<'b> {
    pub fn integer(&self) -> Option<i64> {
        if let Self::Integer(integer) = self { Some(*integer) } else { None }
    }

    pub fn bytes(&self) -> Option<&'b [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    pub fn text(&self) -> Option<&'b str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub fn map(&self) -> Option<&[(Self, Self)]> {
        if let Self::Map(members) = self { Some(members) } else { None }
    }

    /// A map's member.
    pub fn get(&self, key: impl Into<Value<'b>>) -> Option<&Self> {
        let key = key.into();
        self.map()?.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }
}

impl<'b> From<&'b str> for Value<'b> {
    fn from(text: &'b str) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value<'_> {
    fn from(integer: i64) -> Self {
        Self::Integer(integer)
    }
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    fn value(&mut self, depth: u8) -> Result<Value<'b>, Malformed> {
        let &[first] = self.take(1)? else { return Err(Malformed) };
        let (major, info) = (first >> 5, first & 0x1f);
        if major == 7 {
            return match info {
                20 => Ok(Value::Bool(false)),
                21 => Ok(Value::Bool(true)),
                22 => Ok(Value::Null),
                _ => Err(Malformed),
            };
        }
        let argument = self.argument(info)?;
        match major {
            0 => i64::try_from(argument).map(Value::Integer).map_err(|_| Malformed),
            1 => i64::try_from(argument).map(|argument| Value::Integer(-1 - argument)).map_err(|_| Malformed),
            2 => self.take(argument).map(Value::Bytes),
            3 => std::str::from_utf8(self.take(argument)?).map(Value::Text).map_err(|_| Malformed),
            4 => {
                let depth = inner(depth, argument)?;
                (0..argument).map(|_| self.value(depth)).collect::<Result<_, _>>().map(Value::Array)
            }
            5 => self.map(inner(depth, argument)?, argument),
            _ => Err(Malformed),
        }
    }

    fn map(&mut self, depth: u8, length: u64) -> Result<Value<'b>, Malformed> {
        let mut members: Vec<(Value<'b>, Value<'b>)> = Vec::new();
        for _ in 0..length {
            let key = self.value(depth)?;
            if !matches!(key, Value::Integer(_) | Value::Text(_)) || members.iter().any(|(known, _)| *known == key) {
                return Err(Malformed);
            }
            members.push((key, self.value(depth)?));
        }
        Ok(Value::Map(members))
    }

    /// The number beside the major type, in the shortest form that it has.
    fn argument(&mut self, info: u8) -> Result<u64, Malformed> {
        let (length, least) = match info {
            0..=23 => return Ok(u64::from(info)),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            _ => return Err(Malformed),
        };
        let number = self.take(length)?.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        if number < least { Err(Malformed) } else { Ok(number) }
    }

    fn take(&mut self, length: u64) -> Result<&'b [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// One level deeper, for so many items.
fn inner(depth: u8, items: u64) -> Result<u8, Malformed> {
    if items > MOST_ITEMS { Err(Malformed) } else { depth.checked_sub(1).ok_or(Malformed) }
}
