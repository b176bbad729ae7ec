//! What the lab and the agent in its hosts and guests say to each other.
//!
//! One connection carries one [`Request`], which is a line of JSON, and its answer, which is [`Frame`]s up to
//! [`Frame::End`]. After the end of [`Request::Put`] and [`Request::Run`] nothing follows; after that of a
//! [`Request::Connect`] that worked, the connection is the one that was asked for.
//!
//! The lab trusts its hosts: they are its own, on this machine, for minutes. Lengths are bounded all the same, so that a
//! mistake is a message and not a machine without memory.

pub mod record;

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Longest line and longest frame, in bytes.
const MAX_BYTES: u32 = 1 << 20;

/// The first line of a connection that the agent dials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// What the lab gave the host on its kernel's command line: who cannot read it, is no host.
    pub token: String,
}

/// What the lab asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Run a program, which ends with the connection at the latest. Output comes as it is written.
    Run {
        /// The program and its arguments.
        argv: Vec<String>,
    },
    /// Write a file, of which `bytes` follow the line.
    Put {
        /// Where.
        path: String,
        /// Permissions.
        mode: u32,
        /// Its length.
        bytes: u64,
    },
    /// Read a file, as [`Frame::Out`].
    Get {
        /// Where.
        path: String,
    },
    /// Connect to something that the agent can reach.
    Connect {
        /// To what.
        to: Place,
    },
}

/// Something to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A unix socket.
    Unix(String),
    /// A TCP address.
    Tcp(std::net::SocketAddr),
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Standard output, or the contents of a file.
    Out(Vec<u8>),
    /// Standard error.
    Err(Vec<u8>),
    /// How it ended. The last frame.
    End(Ending),
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The program exited with this status; other requests end with 0.
    Status(i32),
    /// The program was killed by this signal.
    Signal(i32),
    /// It could not be done.
    Failed(String),
}

impl Frame {
    /// Sends the frame: a byte for the kind, the length, and the contents.
    ///
    /// # Errors
    /// The connection is broken, or the contents are longer than 1 MiB.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, bytes) = match self {
            Self::Out(bytes) => (1, bytes),
            Self::Err(bytes) => (2, bytes),
            Self::End(ending) => (3, &serde_json::to_vec(ending)?),
        };
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_BYTES);
        let length =
            length.ok_or_else(|| invalid(format!("A frame of {} bytes is too long", bytes.len())))?;
        to.write_all(&[&[kind], &length.to_le_bytes()[..], bytes].concat())
    }

    /// Receives a frame.
    ///
    /// # Errors
    /// The connection is broken or was closed, or what came is no frame.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 5];
        from.read_exact(&mut head)?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
        if length > MAX_BYTES {
            return Err(invalid(format!("The peer announces a frame of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        from.read_exact(&mut bytes)?;
        match head[0] {
            1 => Ok(Self::Out(bytes)),
            2 => Ok(Self::Err(bytes)),
            3 => Ok(Self::End(serde_json::from_slice(&bytes)?)),
            kind => Err(invalid(format!("The peer sends a frame of the unknown kind {kind}"))),
        }
    }
}

/// Sends a value as a line.
///
/// # Errors
/// The connection is broken.
pub fn write_line(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Receives a line and reads the value in it. `None` when the peer has closed the connection before it began one.
///
/// # Errors
/// The connection is broken, or the line is not such a value.
pub fn read_line<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.by_ref().take(MAX_BYTES.into()).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_as_they_were_sent() {
        let frames = [
            Frame::Out(b"out".to_vec()),
            Frame::Err(Vec::new()),
            Frame::End(Ending::Status(3)),
            Frame::End(Ending::Failed("no such file".into())),
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|frame| frame.write(&mut bytes).unwrap());
        let mut from = &bytes[..];
        for frame in frames {
            assert_eq!(Frame::read(&mut from).unwrap(), frame);
        }
        assert!(from.is_empty());
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused() {
        let error = Frame::read(&mut &[1, 0xff, 0xff, 0xff, 0xff][..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_closed_connection_has_no_line() {
        assert_eq!(read_line::<Introduction>(&mut &b""[..]).unwrap(), None);
        assert!(read_line::<Introduction>(&mut &b"{\n"[..]).is_err());
    }
}
