//! Bytes without a meaning, by which a connection is measured.

use std::{io, os::fd::AsFd as _, time::Instant};

use rustix::net::sockopt;

use crate::{Connection, TransportError, tls::StreamError, vectored};

/// Most that is taken from a socket at once.
const PIECE_BYTES: usize = 256 << 10;

impl Connection {
    /// Receives what comes until `until`, `most` bytes at most, and forgets it. Returns how many bytes came.
    ///
    /// # Errors
    /// As [`Self::receive`], where nothing came before.
    pub fn forget_until(&self, most: u64, until: Instant) -> Result<u64, TransportError> {
        let mut came = 0;
        let ended = match self.stream()? {
            None => forget_plain(self, &mut came, most, until).map_err(|error| self.explain(error)),
            Some(stream) => {
                let wanted = usize::try_from(most).unwrap_or(usize::MAX);
                stream
                    .receive_to(self.fd().as_fd(), Some(until), wanted, |piece| came += piece.len() as u64)
                    .map_err(|error: StreamError| self.explain_stream(error))
            }
        };
        match ended {
            Ok(()) | Err(TransportError::Slow) => Ok(came),
            // It is met again.
            Err(_) if came > 0 => Ok(came),
            Err(error) => Err(error),
        }
    }

    /// What was sent and has not gone out when this side lets go of the connection does not go out any more, so that it is in nobody's way.
    ///
    /// # Errors
    /// As setsockopt(2).
    pub fn drop_unsent(&self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(self.fd(), Some(std::time::Duration::ZERO))?)
    }
}

fn forget_plain(connection: &Connection, came: &mut u64, most: u64, until: Instant) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    while *came < most {
        let room = usize::try_from(most - *came).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        match vectored::receive_some_until(connection.fd(), &mut piece[..room], until)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => *came += received as u64,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, time::Duration};

    use super::*;

    #[test]
    fn what_comes_is_counted_until_there_is_enough_or_the_time_is_over_or_the_other_side_ends() {
        let (here, there) = UnixStream::pair().unwrap();
        let here = Connection::from_socket(here).unwrap();
        let there = Connection::from_socket(there).unwrap();
        let long = || Instant::now() + Duration::from_secs(60);
        there.send(&[7; 1000]).unwrap();
        assert_eq!(here.forget_until(400, long()).unwrap(), 400);
        assert_eq!(here.forget_until(5000, Instant::now() + Duration::from_millis(10)).unwrap(), 600);
        assert_eq!(here.forget_until(1, Instant::now()).unwrap(), 0);
        there.send(&[7; 10]).unwrap();
        there.shutdown();
        assert_eq!(here.forget_until(5000, long()).unwrap(), 10);
        assert!(matches!(here.forget_until(1, long()), Err(TransportError::Closed)));
    }
}
