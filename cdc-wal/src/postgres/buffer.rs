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

/// How far whole messages were found: where they end, where the body of the last of them begins, and
/// how many there are. Kept up as bytes arrive, so that none is looked at twice.
#[derive(Clone, Copy, Debug, Default)]
struct Whole {
    end: usize,
    last_body: usize,
    count: usize,
}

/// Bytes received and not consumed yet. Grows to hold one large message, by doubling as its bytes
/// arrive (a length alone reserves nothing), and shrinks again after it.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    whole: Whole,
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
            whole: Whole::default(),
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
        if !(4..=Self::MESSAGE_MAX).contains(&length) {
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
            self.whole = Whole::default();
            if self.bytes.len() > Self::CAPACITY {
                self.bytes = vec![0; Self::CAPACITY];
            }
        } else if self.start > 0 && self.bytes.len() - self.end < Self::CAPACITY / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.whole.end -= self.start;
            self.whole.last_body = self.whole.last_body.saturating_sub(self.start);
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
        self.find_whole();
    }

    /// Whole messages found since the buffer was begun.
    pub(crate) const fn messages(&self) -> usize {
        self.whole.count
    }

    /// Moves the whole messages out, keeping a message cut off at the end in `next`, which takes
    /// this buffer's place. `None` if there is no whole message.
    ///
    /// A length that makes no sense counts as whole: its reader finds it by [`FrameBuffer::peek`].
    pub(crate) fn split_whole(&mut self, mut next: Self) -> Option<Self> {
        let end = self.whole.end;
        if end == self.start {
            return None;
        }
        let tail = self.bytes.get(end..self.end).unwrap_or_default();
        (next.start, next.end, next.whole) = (0, 0, Whole::default());
        while next.bytes.len() < tail.len() {
            next.bytes.resize(next.bytes.len() * 2, 0);
        }
        if let Some(space) = next.bytes.get_mut(..tail.len()) {
            space.copy_from_slice(tail);
            next.end = tail.len();
        }
        self.end = end;
        Some(std::mem::replace(self, next))
    }

    /// True if the last bytes are those of a whole commit or keepalive.
    pub(crate) fn ends_between_transactions(&self) -> bool {
        let whole = self.whole;
        let body = self.bytes.get(whole.last_body..whole.end);
        whole.end == self.end
            && whole.end > self.start
            && match body {
                // CopyData, XLogData (25 bytes), Commit.
                Some(body) => match body.first() {
                    Some(b'w') => body.get(25) == Some(&b'C'),
                    Some(b'k') => true,
                    _ => false,
                },
                None => false,
            }
    }

    /// Looks at the bytes behind the whole messages known so far.
    fn find_whole(&mut self) {
        let whole = &mut self.whole;
        let held = self.bytes.get(..self.end).unwrap_or_default();
        while let Some(length) = held
            .get(whole.end + 1..)
            .and_then(|rest| rest.first_chunk::<4>())
        {
            let length = u32::from_be_bytes(*length) as usize;
            if !(4..=Self::MESSAGE_MAX).contains(&length) {
                whole.end = self.end;
                break;
            }
            if self.end - whole.end < length + 1 {
                break;
            }
            whole.last_body = whole.end + 5;
            whole.end += length + 1;
            whole.count += 1;
        }
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

    /// A message's length field.
    fn length(body: &[u8]) -> [u8; 4] {
        (u32::try_from(body.len()).unwrap() + 4).to_be_bytes()
    }

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
                stream.extend(length(body));
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
        fn splitting_keeps_every_byte_and_only_whole_messages(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 1..20),
            step in 1usize..2000,
        ) {
            let mut stream = Vec::new();
            for body in &bodies {
                stream.push(b'd');
                stream.extend(length(body));
                stream.extend(body);
            }
            let mut buffer = FrameBuffer::new();
            let mut out = Vec::new();
            for part in stream.chunks(step) {
                fill(&mut buffer, part, usize::MAX);
                if let Some(mut chunk) = buffer.split_whole(FrameBuffer::new()) {
                    while let Some(frame) = chunk.peek().unwrap() {
                        out.push(chunk.body(&frame).to_vec());
                        chunk.consume(&frame);
                    }
                    prop_assert_eq!(chunk.len(), 0);
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
            let _ = buffer.ends_between_transactions();
            let _ = buffer.split_whole(FrameBuffer::new());
        }
    }

    #[test]
    fn the_end_of_a_transaction_is_seen() {
        let message = |body: &[u8]| [&[b'd'][..], &length(body), body].concat();
        let data = |kind: u8| message(&[&[b'w'][..], &[0; 24], &[kind, 1, 2]].concat());
        let cut = [data(b'C'), data(b'B')[..9].to_vec()].concat();
        for (bytes, expected) in [
            (data(b'C'), true),
            ([data(b'B'), data(b'I')].concat(), false),
            ([data(b'I'), data(b'C')].concat(), true),
            (message(&[b'k'; 18]), true),
            (cut, false),
            (Vec::new(), false),
        ] {
            let mut buffer = FrameBuffer::new();
            fill(&mut buffer, &bytes, usize::MAX);
            assert_eq!(buffer.ends_between_transactions(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_large_message_grows_the_buffer_and_its_end_shrinks_it() {
        let mut buffer = FrameBuffer::new();
        let body = vec![7; 3 << 20];
        fill(
            &mut buffer,
            &[&[b'd'][..], &length(&body), &body].concat(),
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
