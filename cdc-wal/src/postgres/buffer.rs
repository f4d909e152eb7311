//! The receive buffer: bytes from the socket, cut into protocol messages.

use std::ops::Range;

use super::decode::DecodeError;

/// One message in the buffer: its kind, where its body is, and its length in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) tag: u8,
    pub(crate) body: Range<usize>,
    pub(crate) len: usize,
}

/// Bytes received and not consumed yet. Grows to hold one large message, by doubling as its bytes
/// arrive (a length alone reserves nothing), and shrinks again after it.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameBuffer {
    /// Usual capacity in bytes: some hundred rows a read.
    const CAPACITY: usize = 256 << 10;
    /// Longest message. PostgreSQL refuses to build one beyond 1 GiB.
    pub(crate) const MESSAGE_MAX: usize = (1 << 30) + (1 << 16);

    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; Self::CAPACITY],
            start: 0,
            end: 0,
        }
    }

    /// The first whole message, if there is one. It stays until [`FrameBuffer::consume`].
    #[inline]
    pub(crate) fn peek(&self) -> Result<Option<Frame>, DecodeError> {
        let held = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some(&[tag, a, b, c, d]) = held.first_chunk::<5>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length < 4 || length > Self::MESSAGE_MAX {
            return Err(DecodeError {
                what: "message with an impossible length",
                offset: 0,
            });
        }
        let len = length + 1;
        Ok((held.len() >= len).then(|| Frame {
            tag,
            body: self.start + 5..self.start + len,
            len,
        }))
    }

    /// The bytes of a message's body.
    #[inline]
    pub(crate) fn body(&self, frame: &Frame) -> &[u8] {
        self.bytes.get(frame.body.clone()).unwrap_or_default()
    }

    /// Forgets the first message.
    #[inline]
    pub(crate) fn consume(&mut self, frame: &Frame) {
        self.start = (self.start + frame.len).min(self.end);
    }

    /// Room to receive into; never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.bytes.len() > Self::CAPACITY {
                self.bytes = vec![0; Self::CAPACITY];
            }
        } else if self.start > 0 && self.bytes.len() - self.end < Self::CAPACITY / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.bytes.len() {
            self.bytes.resize(self.bytes.len() * 2, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Takes note of bytes received into [`FrameBuffer::space`].
    pub(crate) fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Bytes that are received and not consumed.
    pub(crate) const fn len(&self) -> usize {
        self.end - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill(buffer: &mut FrameBuffer, mut bytes: &[u8], step: usize) {
        while !bytes.is_empty() {
            let space = buffer.space();
            let n = bytes.len().min(space.len()).min(step.max(1));
            space[..n].copy_from_slice(&bytes[..n]);
            buffer.received(n);
            bytes = &bytes[n..];
        }
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_they_arrive(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 1..20),
            step in 1usize..900,
        ) {
            let mut stream = Vec::new();
            for body in &bodies {
                stream.push(b'd');
                stream.extend((body.len() as u32 + 4).to_be_bytes());
                stream.extend(body);
            }
            let mut buffer = FrameBuffer::new();
            let mut out = Vec::new();
            for chunk in stream.chunks(step) {
                fill(&mut buffer, chunk, step);
                while let Some(frame) = buffer.peek().unwrap() {
                    out.push(buffer.body(&frame).to_vec());
                    buffer.consume(&frame);
                }
            }
            prop_assert_eq!(out, bodies);
            prop_assert_eq!(buffer.len(), 0);
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut buffer = FrameBuffer::new();
            fill(&mut buffer, &bytes, 7);
            while let Ok(Some(frame)) = buffer.peek() {
                let _ = buffer.body(&frame);
                buffer.consume(&frame);
            }
        }
    }

    #[test]
    fn a_large_message_grows_the_buffer_and_its_end_shrinks_it() {
        let mut buffer = FrameBuffer::new();
        let body = vec![7; 3 << 20];
        fill(
            &mut buffer,
            &[&[b'd'][..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat(),
            usize::MAX,
        );
        let frame = buffer.peek().unwrap().unwrap();
        assert_eq!(buffer.body(&frame), body);
        buffer.consume(&frame);
        assert_eq!(buffer.space().len(), FrameBuffer::CAPACITY);
    }

    #[test]
    fn a_length_alone_reserves_nothing() {
        let mut buffer = FrameBuffer::new();
        fill(&mut buffer, &[b'd', 0x3f, 0xff, 0xff, 0xff, 1], 6);
        assert_eq!(buffer.peek(), Ok(None));
        assert!(buffer.space().len() < FrameBuffer::CAPACITY);
        let mut buffer = FrameBuffer::new();
        fill(&mut buffer, &[b'd', 0xff, 0xff, 0xff, 0xff], 5);
        assert!(buffer.peek().is_err());
    }
}
