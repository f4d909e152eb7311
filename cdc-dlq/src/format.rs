//! Segments and frames as bytes (`docs/formats/dlq.md`); pure functions, no I/O.

/// Length of a segment's header.
pub(crate) const SEGMENT_HEADER_LEN: usize = 24;
/// Length of a frame's header.
pub(crate) const FRAME_HEADER_LEN: usize = 20;
/// Longest payload of a frame.
pub(crate) const PAYLOAD_MAX: usize = 1 << 30;
/// Name of the lock file.
pub(crate) const LOCK_NAME: &str = "dlq.lock";

const SEGMENT_MAGIC: &[u8; 8] = b"WKCDCDL1";
const FRAME_MAGIC: &[u8; 4] = b"DLFR";

/// The file name of a segment.
pub(crate) fn segment_name(sequence: u64) -> String {
    format!("letters-{sequence:016x}.dlq")
}

/// The sequence in a segment's file name; `None` for other files.
pub(crate) fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("letters-")?.strip_suffix(".dlq")?;
    let plain = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let sequence = u64::from_str_radix(digits, 16).ok().filter(|_| plain)?;
    // One spelling only: upper-case digits are somebody else's file.
    (segment_name(sequence) == name).then_some(sequence)
}

/// A segment's header.
pub(crate) fn segment_header(sequence: u64) -> [u8; SEGMENT_HEADER_LEN] {
    let mut header = [0; SEGMENT_HEADER_LEN];
    header[..8].copy_from_slice(SEGMENT_MAGIC);
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    let crc = crc32c::crc32c(&header[..20]);
    header[20..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Where a frame stands, which its checksum covers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The segment.
    pub(crate) sequence: u64,
    /// Offset of the frame in the file.
    pub(crate) offset: u64,
}

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Length of the payload.
    pub(crate) length: u32,
    /// Offset at which the frame's append began.
    pub(crate) append: u32,
    payload_crc: u32,
}

impl FrameHeader {
    /// Reads a header; `None` if these bytes are none at this place.
    pub(crate) fn read(bytes: &[u8; FRAME_HEADER_LEN], place: Place) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<4>();
        let &[magic, length, append, payload_crc, crc] = words else {
            return None;
        };
        let whole = magic == *FRAME_MAGIC && u32::from_le_bytes(crc) == header_crc(bytes, place);
        let header = Self {
            length: u32::from_le_bytes(length),
            append: u32::from_le_bytes(append),
            payload_crc: u32::from_le_bytes(payload_crc),
        };
        let length = header.length as usize;
        let sound = (1..=PAYLOAD_MAX).contains(&length) && u64::from(header.append) <= place.offset;
        (whole && sound).then_some(header)
    }

    /// True if these are the payload's bytes.
    pub(crate) fn fits(&self, payload: &[u8]) -> bool {
        payload.len() == self.length as usize && crc32c::crc32c(payload) == self.payload_crc
    }
}

fn header_crc(bytes: &[u8; FRAME_HEADER_LEN], place: Place) -> u32 {
    let crc = crc32c::crc32c(&bytes[..16]);
    let crc = crc32c::crc32c_append(crc, &place.sequence.to_le_bytes());
    crc32c::crc32c_append(crc, &place.offset.to_le_bytes())
}

/// Frames of one append, built before it is known where they will stand.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    /// Where each frame starts in `bytes`.
    starts: Vec<usize>,
}

impl Frames {
    /// Adds a frame whose payload `write` appends. Nothing is added if it fails, or gives a
    /// payload longer than [`PAYLOAD_MAX`], which is `Ok(false)`.
    pub(crate) fn push<E>(
        &mut self,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; FRAME_HEADER_LEN]);
        let written = write(&mut self.bytes);
        let length = self.bytes.len() - start - FRAME_HEADER_LEN;
        if written.is_err() || length > PAYLOAD_MAX {
            self.bytes.truncate(start);
            return written.map(|()| false);
        }
        self.starts.push(start);
        Ok(true)
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.starts.clear();
    }

    /// Offset from the append's begin, and length, of each frame with its header.
    fn extents(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let ends = self.starts.iter().skip(1).copied();
        let ends = ends.chain(std::iter::once(self.bytes.len()));
        self.starts
            .iter()
            .zip(ends)
            .map(|(&at, end)| (at, end - at))
    }

    /// Offset from the append's begin, length with the header, and payload of each frame.
    pub(crate) fn payloads(&self) -> impl Iterator<Item = (usize, usize, &[u8])> + '_ {
        self.extents().map(|(at, length)| {
            let payload = self.bytes.get(at + FRAME_HEADER_LEN..at + length);
            (at, length, payload.unwrap_or_default())
        })
    }

    /// Fills in the headers for an append at this place, and gives all bytes. `None` if the
    /// place or a length does not fit the format.
    pub(crate) fn seal(&mut self, place: Place) -> Option<&[u8]> {
        let append = u32::try_from(place.offset).ok()?.to_le_bytes();
        let extents: Vec<_> = self.extents().collect();
        for (at, length) in extents {
            let frame = self.bytes.get_mut(at..at + length)?;
            let (header, payload) = frame.split_first_chunk_mut::<FRAME_HEADER_LEN>()?;
            header[..4].copy_from_slice(FRAME_MAGIC);
            header[4..8].copy_from_slice(&u32::try_from(payload.len()).ok()?.to_le_bytes());
            header[8..12].copy_from_slice(&append);
            header[12..16].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
            let here = Place {
                offset: place.offset + at as u64,
                ..place
            };
            let crc = header_crc(header, here);
            header[16..].copy_from_slice(&crc.to_le_bytes());
        }
        Some(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place {
        sequence: 3,
        offset: 24,
    };

    fn sealed(payloads: &[&[u8]]) -> Vec<u8> {
        let mut frames = Frames::default();
        for payload in payloads {
            let pushed = frames.push(|out| {
                out.extend_from_slice(payload);
                Ok::<_, ()>(())
            });
            assert_eq!(pushed, Ok(true));
        }
        frames.seal(PLACE).unwrap().to_vec()
    }

    fn read(bytes: &[u8], place: Place) -> Option<&[u8]> {
        let (header, rest) = bytes.split_first_chunk()?;
        let header = FrameHeader::read(header, place)?;
        let payload = rest.get(..header.length as usize)?;
        header.fits(payload).then_some(payload)
    }

    #[test]
    fn names() {
        assert_eq!(segment_name(255), "letters-00000000000000ff.dlq");
        assert_eq!(
            parse_segment_name("letters-00000000000000ff.dlq"),
            Some(255)
        );
        for other in [
            "letters-00000000000000FF.dlq",
            "letters-ff.dlq",
            "dlq.lock",
            "x",
        ] {
            assert_eq!(parse_segment_name(other), None, "{other}");
        }
    }

    #[test]
    fn version_one_stays_readable() {
        // Frozen: bytes of the first release.
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&segment_header(3)), SEGMENT_V1);
        assert_eq!(hex(&sealed(&[b"one"])), FRAME_V1);
    }

    const SEGMENT_V1: &str = "574b434443444c31030000000000000000000000319817e9";
    const FRAME_V1: &str = "444c46520300000018000000e9b2942ab37d9a2f6f6e65";

    #[test]
    fn a_frame_is_valid_in_its_place_only() {
        let bytes = sealed(&[b"one", b"two"]);
        assert_eq!(read(&bytes, PLACE), Some(&b"one"[..]));
        let second = Place {
            offset: PLACE.offset + 23,
            ..PLACE
        };
        assert_eq!(read(&bytes[23..], second), Some(&b"two"[..]));
        assert_eq!(read(&bytes[23..], PLACE), None);
        let elsewhere = Place {
            sequence: 4,
            ..PLACE
        };
        assert_eq!(read(&bytes, elsewhere), None);
    }

    proptest! {
        #[test]
        fn every_changed_bit_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 1..60), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut bytes = sealed(&[&payload]);
            prop_assert_eq!(read(&bytes, PLACE), Some(&payload[..]));
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(read(&bytes, PLACE), None);
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&bytes, PLACE);
        }
    }
}
