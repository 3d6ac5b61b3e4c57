//! The PROXY protocol, version 2 (HAProxy's specification, section 2.2): a load balancer that passes bytes on says first whose
//! they are. Believed from configured networks only, and demanded of them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longer headers are refused: addresses and a few additions fit many times.
const LONGEST: usize = 2048;

/// Reads the header and nothing beyond; the client's address comes back, or `None` where the balancer speaks for itself.
///
/// # Errors
/// There is no such header.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if &head[..12] != SIGNATURE || head[12] >> 4 != 2 || length > LONGEST {
        return Err(invalid("no PROXY header of version 2"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match (head[12] & 15, head[13] >> 4) {
        (0, _) | (1, 0) => Ok(None),
        (1, 1) if length >= 12 => {
            let bytes: [u8; 4] = rest[..4].try_into().map_err(invalid_slice)?;
            Ok(Some(Ipv4Addr::from(bytes).into()))
        }
        (1, 2) if length >= 36 => {
            let bytes: [u8; 16] = rest[..16].try_into().map_err(invalid_slice)?;
            Ok(Some(IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()))
        }
        _ => Err(invalid("PROXY header of a kind that is not known")),
    }
}

fn invalid_slice(error: std::array::TryFromSliceError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
