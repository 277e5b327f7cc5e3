//! The UDP socket of the network server: the only I/O of this driver.
//!
//! Receives as many datagrams as are there before the server is asked, into one buffer. It must
//! not look into them.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;

use tokio::net::UdpSocket;

use super::gwmp::MAX_DATAGRAM_BYTES;

/// Where a gateway listens for its own packet forwarder: the port that Semtech's uses, on loopback
/// because the protocol authenticates nobody.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:1700";

/// Most datagrams in a batch.
pub const MAX_BATCH: usize = 256;

/// Room for a batch; its pages are touched only as far as they are used.
const BUFFER_BYTES: usize = 8 * MAX_DATAGRAM_BYTES;

/// Datagrams that were received together.
#[derive(Debug)]
pub struct Batch {
    buffer: Vec<u8>,
    list: Vec<(SocketAddr, Range<usize>)>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { buffer: vec![0; BUFFER_BYTES], list: Vec::with_capacity(MAX_BATCH) }
    }
}

impl Batch {
    /// Sender and content of each datagram, in the order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        self.list.iter().map(|(from, range)| (*from, &self.buffer[range.clone()]))
    }

    /// How many datagrams there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn room(&self) -> usize {
        self.list.last().map_or(0, |(_, range)| range.end)
    }

    /// Receives one datagram if one is there. Errors of a peer that is gone are no errors of ours.
    fn receive(&mut self, socket: &UdpSocket) -> io::Result<bool> {
        let start = self.room();
        loop {
            match socket.try_recv_from(&mut self.buffer[start..]) {
                Ok((length, from)) => {
                    self.list.push((from, start..start + length));
                    return Ok(true);
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => return Ok(false),
                    // An ICMP answer to something we sent: that forwarder does not listen.
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {}
                    _ => return Err(error),
                },
            }
        }
    }
}

/// The socket.
#[derive(Debug)]
pub struct Link {
    socket: UdpSocket,
}

impl Link {
    /// Binds the socket.
    ///
    /// # Errors
    ///
    /// Those of the operating system: the port is taken, the address is not ours.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { socket: UdpSocket::bind(address).await? })
    }

    /// The address that the socket has (port 0 was chosen by the system).
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits for datagrams and takes those that are there, at most [`MAX_BATCH`]. The batch is
    /// cleared first. Cancel-safe: nothing is received before the wait ends.
    ///
    /// # Errors
    ///
    /// Those of the operating system; what was received before is in the batch.
    pub async fn receive(&self, batch: &mut Batch) -> io::Result<()> {
        batch.list.clear();
        while batch.is_empty() {
            self.socket.readable().await?;
            while batch.len() < MAX_BATCH
                && batch.room() + MAX_DATAGRAM_BYTES <= batch.buffer.len()
                && batch.receive(&self.socket)?
            {}
        }
        Ok(())
    }

    /// Sends a datagram. A receiver that is not there is no error: UDP promises nothing.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub async fn send(&self, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
        match self.socket.send_to(bytes, to).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            result => result.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_holds_what_is_there() {
        let link = Link::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let to = link.local_address().unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let large = vec![7; 65_507];
        for datagram in [&b"one"[..], b"", &large] {
            peer.send_to(datagram, to).await.unwrap();
        }
        let mut batch = Batch::default();
        let mut received = Vec::new();
        while received.len() < 3 {
            link.receive(&mut batch).await.unwrap();
            received.extend(batch.iter().map(|(from, bytes)| (from, bytes.to_vec())));
        }
        let from = peer.local_addr().unwrap();
        assert_eq!(received, [(from, b"one".to_vec()), (from, vec![]), (from, large)]);

        link.send(from, b"answer").await.unwrap();
        let mut answer = [0; 16];
        let (length, _) = peer.recv_from(&mut answer).await.unwrap();
        assert_eq!(&answer[..length], b"answer");
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_is_no_error() {
        let link = Link::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        for _ in 0..3 {
            link.send(gone, b"hello").await.unwrap();
        }
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.send_to(b"still here", link.local_address().unwrap()).await.unwrap();
        let mut batch = Batch::default();
        link.receive(&mut batch).await.unwrap();
        assert_eq!(batch.len(), 1);
    }
}
