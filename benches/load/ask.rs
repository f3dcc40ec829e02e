//! One question, and what the answer to it must be.

use std::io::{Read, Write};

/// A request as it goes over the line, and its answer.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) request: Vec<u8>,
    pub(crate) answer: Answer,
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These bytes, and no other.
    Exactly(Vec<u8>),
    /// A page over HTTP with this body. Its head must tell its length.
    Page(Vec<u8>),
}

impl Ask {
    /// Asks, and fails unless the answer is the right one. `buffer` is kept between calls.
    pub(crate) fn once(&self, connection: &mut (impl Read + Write), buffer: &mut Vec<u8>) {
        connection.write_all(&self.request).expect("the request is taken");
        let mut received = 0;
        while !self.answer.is_whole(&buffer[..received]) {
            // One more than is awaited, so that it is seen when there is more.
            buffer.resize(received + self.answer.rest(received) + 1, 0);
            match connection.read(&mut buffer[received..]).expect("an answer in time") {
                0 => panic!("closed after {:?}", String::from_utf8_lossy(&buffer[..received])),
                more => received += more,
            }
        }
        assert!(
            self.answer.is(&buffer[..received]),
            "another answer: {:?}",
            String::from_utf8_lossy(&buffer[..received])
        );
    }
}

impl Answer {
    fn is_whole(&self, received: &[u8]) -> bool {
        match self {
            Self::Exactly(bytes) => received.len() >= bytes.len(),
            Self::Page(_) => page_length(received).is_some_and(|length| received.len() >= length),
        }
    }

    fn is(&self, received: &[u8]) -> bool {
        match self {
            Self::Exactly(bytes) => received == bytes,
            Self::Page(body) => received.starts_with(b"HTTP/1.1 200 ") && received.ends_with(body),
        }
    }

    /// How much is to come, as far as that is known.
    fn rest(&self, received: usize) -> usize {
        match self {
            Self::Exactly(bytes) => bytes.len() - received,
            Self::Page(_) => 4096,
        }
    }
}

/// How long a page is with its head, once that has come.
fn page_length(received: &[u8]) -> Option<usize> {
    let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&received[..end]).to_ascii_lowercase();
    let length =
        head.split("\r\n").find_map(|line| line.strip_prefix("content-length:")).expect("the page tells its length");
    Some(end + length.trim().parse::<usize>().expect("a length"))
}
