//! HTTP message signatures (RFC 9421) as nodes make them: Ed25519, one signature, components without parameters. What was
//! signed is rebuilt from the request and compared; whose keys are good is `node_keys`' business. No I/O.

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, Method};
use sha2::{Digest as _, Sha256, Sha512};

/// Components and parameters that are looked at.
const MOST: usize = 32;
/// Longest `Signature-Input` line, in bytes.
const LONGEST: usize = 4096;

/// The request, as signatures cover it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub method: &'a Method,
    /// Begins with `/`.
    pub path: &'a str,
    pub query: Option<&'a str>,
    /// As the client wrote it.
    pub host: &'a str,
    pub is_https: bool,
    pub headers: &'a HeaderMap,
}

/// One signature and what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<'a> {
    /// What it covers, in its order.
    pub components: Vec<&'a str>,
    /// Seconds since 1970.
    pub created: Option<i64>,
    pub expires: Option<i64>,
    pub key_id: &'a str,
    pub algorithm: Option<&'a str>,
    /// The member's text, which is covered too.
    params: &'a str,
    pub signature: Vec<u8>,
}

/// The signature that a request shows; `None`: it shows none.
///
/// # Errors
/// What is wrong with it.
pub fn read(headers: &HeaderMap) -> Result<Option<Signed<'_>>, &'static str> {
    let one = |name: &str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(None),
            (Some(value), None) => match value.to_str() {
                Ok(text) if text.len() <= LONGEST => Ok(Some(text)),
                _ => Err("a signature's header is too long, or no plain text"),
            },
            _ => Err("send one line of each signature header"),
        }
    };
    let (input, signature) = match (one("signature-input")?, one("signature")?) {
        (None, None) => return Ok(None),
        (Some(input), Some(signature)) => (input, signature),
        _ => return Err("send `Signature-Input` and `Signature`"),
    };
    let mut reader = Reader(input.trim());
    let label = reader.key().ok_or("`Signature-Input` is no dictionary")?;
    reader.take("=").ok_or("`Signature-Input` has no list")?;
    let params = reader.0;
    let mut signed = reader.member().ok_or("`Signature-Input` is not of the form (\"…\" …);name=value")?;
    if !reader.0.is_empty() {
        return Err("send one signature");
    }
    signed.params = params;
    let text = signature.trim().strip_prefix(label).and_then(|rest| rest.strip_prefix("=:"));
    let text = text.and_then(|text| text.strip_suffix(':')).ok_or("`Signature` has not the input's label")?;
    signed.signature = STANDARD.decode(text).map_err(|_| "`Signature` is no base64")?;
    Ok(Some(signed))
}

/// Reads structured fields (RFC 9651), as far as signatures need them.
struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn take(&mut self, text: &str) -> Option<()> {
        self.0 = self.0.strip_prefix(text)?;
        Some(())
    }

    fn key(&mut self) -> Option<&'a str> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte);
        let end = self.0.bytes().position(|byte| !plain(byte)).unwrap_or(self.0.len());
        let (key, rest) = self.0.split_at(end);
        self.0 = rest;
        (key.bytes().next()?.is_ascii_lowercase() || key.starts_with('*')).then_some(key)
    }

    /// A string without escapes.
    fn string(&mut self) -> Option<&'a str> {
        self.take("\"")?;
        let (text, rest) = self.0.split_once('"')?;
        self.0 = rest;
        text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\').then_some(text)
    }

    fn integer(&mut self) -> Option<i64> {
        let digits = self.0.trim_start_matches('-').bytes().take_while(u8::is_ascii_digit).count();
        let end = self.0.len() - self.0.trim_start_matches('-').len() + digits;
        let (number, rest) = self.0.split_at(end);
        self.0 = rest;
        if digits > 15 { None } else { number.parse().ok() }
    }

    fn member(&mut self) -> Option<Signed<'a>> {
        self.take("(")?;
        let mut components = Vec::new();
        while self.take(")").is_none() {
            if !components.is_empty() {
                self.take(" ")?;
            }
            components.push(self.string()?);
            if components.len() > MOST {
                return None;
            }
        }
        let mut signed = Signed {
            components,
            created: None,
            expires: None,
            key_id: "",
            algorithm: None,
            params: "",
            signature: Vec::new(),
        };
        let mut names = Vec::new();
        while self.take(";").is_some() {
            let name = self.key()?;
            if names.contains(&name) || names.len() > MOST {
                return None;
            }
            names.push(name);
            self.take("=")?;
            match name {
                "created" => signed.created = Some(self.integer()?),
                "expires" => signed.expires = Some(self.integer()?),
                "keyid" => signed.key_id = self.string()?,
                "alg" => signed.algorithm = Some(self.string()?),
                // Covered like everything else here, so whoever signs may say more.
                _ if self.0.starts_with('"') => drop(self.string()?),
                _ => drop(self.integer()?),
            }
        }
        Some(signed)
    }
}

impl Signed<'_> {
    /// Whether a component is covered, by itself or as a part of another (RFC 9421 section 2.2).
    pub fn covers(&self, component: &str) -> bool {
        let has = |name: &str| self.components.contains(&name);
        has(component)
            || match component {
                "@path" | "@query" => has("@target-uri") || has("@request-target"),
                "@authority" | "@scheme" => has("@target-uri"),
                _ => false,
            }
    }

    /// What was signed (RFC 9421 section 2.5).
    ///
    /// # Errors
    /// A component that the request has not, or that is not known here.
    pub fn base(&self, message: &Message<'_>) -> Result<String, String> {
        let mut base = String::with_capacity(512);
        for (index, component) in self.components.iter().enumerate() {
            if self.components[..index].contains(component) {
                return Err(format!("`{component}` is covered twice"));
            }
            let value = message.component(component).ok_or_else(|| format!("`{component}` can't be covered here"))?;
            base.push_str(&format!("\"{component}\": {value}\n"));
        }
        base.push_str("\"@signature-params\": ");
        base.push_str(self.params);
        Ok(base)
    }

    /// Whether `key` made it for `base`.
    pub fn is_by(&self, key: &[u8], base: &str) -> bool {
        UnparsedPublicKey::new(&ED25519, key).verify(base.as_bytes(), &self.signature).is_ok()
    }
}

impl Message<'_> {
    fn component(&self, name: &str) -> Option<String> {
        let target = || self.query.map_or_else(|| self.path.to_owned(), |query| format!("{}?{query}", self.path));
        let scheme = if self.is_https { "https" } else { "http" };
        let authority = || {
            let host = self.host.to_ascii_lowercase();
            let usual = if self.is_https { ":443" } else { ":80" };
            host.strip_suffix(usual).map(str::to_owned).unwrap_or(host)
        };
        Some(match name {
            "@method" => self.method.as_str().to_owned(),
            "@path" => self.path.to_owned(),
            "@query" => format!("?{}", self.query.unwrap_or_default()),
            "@request-target" => target(),
            "@authority" => authority(),
            "@scheme" => scheme.to_owned(),
            "@target-uri" => format!("{scheme}://{}{}", authority(), target()),
            _ => {
                let known = HeaderName::from_bytes(name.as_bytes()).ok().filter(|known| known.as_str() == name)?;
                let values: Option<Vec<&str>> =
                    self.headers.get_all(known).iter().map(|value| value.to_str().ok().map(str::trim)).collect();
                values.filter(|values| !values.is_empty())?.join(", ")
            }
        })
    }
}

/// What a body must hash to (RFC 9530).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentDigest {
    sha256: Option<Vec<u8>>,
    sha512: Option<Vec<u8>>,
}

impl ContentDigest {
    /// Of the request's header; `None` if it names no algorithm that is known here, or can't be read.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut digest = Self { sha256: None, sha512: None };
        for value in headers.get_all("content-digest") {
            for member in value.to_str().ok()?.split(',') {
                let (name, text) = member.trim().split_once("=:")?;
                let bytes = STANDARD.decode(text.strip_suffix(':')?).ok()?;
                match name {
                    "sha-256" => digest.sha256 = Some(bytes),
                    "sha-512" => digest.sha512 = Some(bytes),
                    _ => {}
                }
            }
        }
        (digest.sha256.is_some() || digest.sha512.is_some()).then_some(digest)
    }

    /// Whether these parts are the body.
    pub fn is_of<'a>(&self, parts: impl Iterator<Item = &'a [u8]> + Clone) -> bool {
        let hashed256 = self.sha256.as_ref().is_none_or(|known| {
            let mut hasher = Sha256::new();
            parts.clone().for_each(|part| hasher.update(part));
            hasher.finalize().as_slice() == known.as_slice()
        });
        hashed256
            && self.sha512.as_ref().is_none_or(|known| {
                let mut hasher = Sha512::new();
                parts.for_each(|part| hasher.update(part));
                hasher.finalize().as_slice() == known.as_slice()
            })
    }
}
