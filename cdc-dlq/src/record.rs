//! Records as payload bytes: letters and changes of state (`docs/formats/dlq.md`).

use std::sync::Arc;

use bincode::config::{self, Configuration, Limit, LittleEndian, Varint};
use bytes::Bytes;
use cdc_core::envelope::{EncodeError, Encoder, Format, compact};
use cdc_core::{DeadLetter, EventId, Failure, LetterState, Lsn, Position, Stage};

/// Longest name of an emitter in bytes.
pub(crate) const EMITTER_MAX: usize = 200;
const CLASS_MAX: usize = 64;
const MESSAGE_MAX: usize = 4096;
const RESPONSE_MAX: usize = 1024;
const METADATA_MAX: usize = 16 * 1024;

const KIND_LETTER: u8 = 1;
const KIND_STATE: u8 = 2;

/// Spelled out, since byte order and integer encoding are part of the format.
type Config = Configuration<LittleEndian, Varint, Limit<METADATA_MAX>>;
const CONFIG: Config = config::standard().with_limit::<METADATA_MAX>();

/// Letter metadata on the disk, in this order.
type LetterTuple<'a> = (
    (u64, u64, u32),
    &'a str,
    u8,
    u8,
    &'a str,
    &'a str,
    Option<u16>,
    Option<&'a str>,
    u32,
    (i64, i64),
);

/// State metadata on the disk.
type StateTuple<'a> = ((u64, u64, u32), &'a str, u8);

/// Which letter a record speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity<'a> {
    pub(crate) emitter: &'a str,
    pub(crate) source: u64,
    pub(crate) position: Position,
}

impl<'a> Identity<'a> {
    pub(crate) const fn new(emitter: &'a str, id: EventId) -> Self {
        Self {
            emitter,
            source: id.source(),
            position: id.position(),
        }
    }

    const fn tuple(&self) -> (u64, u64, u32) {
        (self.source, self.position.commit.0, self.position.ordinal)
    }

    const fn from_tuple(emitter: &'a str, (source, commit, ordinal): (u64, u64, u32)) -> Self {
        Self {
            emitter,
            source,
            position: Position::new(Lsn(commit), ordinal),
        }
    }
}

/// A record, read as far as the index needs it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Letter(LetterRecord<'a>),
    State(Identity<'a>, LetterState),
}

/// A letter's metadata, and its event still encoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LetterRecord<'a> {
    pub(crate) identity: Identity<'a>,
    pub(crate) state: LetterState,
    pub(crate) stage: Stage,
    pub(crate) class: &'a str,
    pub(crate) message: &'a str,
    pub(crate) status: Option<u16>,
    pub(crate) response: Option<&'a str>,
    pub(crate) attempts: u32,
    pub(crate) first_failed_micros: i64,
    pub(crate) last_failed_micros: i64,
    /// Where the event starts in the payload.
    pub(crate) event_at: usize,
}

/// The text, or as much of it as fits `max` bytes without cutting a character.
fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Appends a letter record.
pub(crate) fn letter(out: &mut Vec<u8>, letter: &DeadLetter) -> Result<(), EncodeError> {
    let failure = &letter.failure;
    let identity = Identity::new(&letter.emitter, letter.event_id());
    let metadata: LetterTuple<'_> = (
        identity.tuple(),
        identity.emitter,
        letter.state as u8,
        failure.stage as u8,
        cut(&failure.class, CLASS_MAX),
        cut(&failure.message, MESSAGE_MAX),
        failure.status,
        failure.response.as_deref().map(|r| cut(r, RESPONSE_MAX)),
        letter.attempts,
        (letter.first_failed_micros, letter.last_failed_micros),
    );
    out.push(KIND_LETTER);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out, &metadata);
    let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_le_bytes());
    Encoder::new(Format::Bincode).encode(&letter.source, &letter.event, out)
}

/// Appends a state record.
pub(crate) fn state(out: &mut Vec<u8>, identity: &Identity<'_>, state: LetterState) {
    out.push(KIND_STATE);
    let metadata: StateTuple<'_> = (identity.tuple(), identity.emitter, state as u8);
    write(out, &metadata);
}

/// Writing plain values into a vector cannot fail: the encoder's errors are about its writer and
/// about types that are not used here. A cut record would be refused when it is read.
fn write(out: &mut Vec<u8>, metadata: &impl bincode::Encode) {
    let written = bincode::encode_into_std_write(metadata, out, CONFIG);
    debug_assert!(written.is_ok());
}

/// Reads a record. The error names what is wrong, never contents.
pub(crate) fn read(payload: &[u8]) -> Result<Record<'_>, &'static str> {
    let (&kind, rest) = payload.split_first().ok_or("an empty record")?;
    match kind {
        KIND_LETTER => read_letter(rest).map(Record::Letter),
        KIND_STATE => {
            let (tuple, read) =
                bincode::borrow_decode_from_slice::<StateTuple<'_>, _>(rest, CONFIG)
                    .map_err(|_| "a damaged state record")?;
            if read != rest.len() {
                return Err("a state record with bytes left over");
            }
            let (id, emitter, state) = tuple;
            let state = LetterState::from_u8(state).ok_or("an unknown letter state")?;
            Ok(Record::State(Identity::from_tuple(emitter, id), state))
        }
        _ => Err("an unknown kind of record; it may be of a newer version"),
    }
}

fn read_letter(rest: &[u8]) -> Result<LetterRecord<'_>, &'static str> {
    let (length, rest) = rest.split_first_chunk::<4>().ok_or("a cut off letter")?;
    let length = u32::from_le_bytes(*length) as usize;
    let (metadata, _event) = rest.split_at_checked(length).ok_or("a cut off letter")?;
    let (tuple, read) = bincode::borrow_decode_from_slice::<LetterTuple<'_>, _>(metadata, CONFIG)
        .map_err(|_| "damaged letter metadata")?;
    if read != length {
        return Err("letter metadata with bytes left over");
    }
    let (id, emitter, state, stage, class, message, status, response, attempts, (first, last)) =
        tuple;
    Ok(LetterRecord {
        identity: Identity::from_tuple(emitter, id),
        state: LetterState::from_u8(state).ok_or("an unknown letter state")?,
        stage: Stage::from_u8(stage).ok_or("an unknown stage")?,
        class,
        message,
        status,
        response,
        attempts,
        first_failed_micros: first,
        last_failed_micros: last,
        event_at: 1 + 4 + length,
    })
}

/// Reads a whole letter with its event. The state is the one written with it.
pub(crate) fn read_whole(payload: &Bytes) -> Result<DeadLetter, &'static str> {
    let Record::Letter(record) = read(payload)? else {
        return Err("a state record in a letter's place");
    };
    let (source, event) = compact::decode(&payload.slice(record.event_at..))
        .map_err(|_| "a letter whose event cannot be decoded")?;
    if EventId::new(&source.lineage, event.position).source() != record.identity.source
        || event.position != record.identity.position
    {
        return Err("a letter whose event is another one than its metadata say");
    }
    Ok(DeadLetter {
        emitter: Arc::from(record.identity.emitter),
        source,
        event,
        failure: Failure {
            stage: record.stage,
            class: Arc::from(record.class),
            message: record.message.to_owned(),
            status: record.status,
            response: record.response.map(str::to_owned),
        },
        attempts: record.attempts,
        first_failed_micros: record.first_failed_micros,
        last_failed_micros: record.last_failed_micros,
        state: record.state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cdc_core::testing;
    use proptest::prelude::*;

    fn sample() -> DeadLetter {
        DeadLetter {
            emitter: "hooks".into(),
            source: testing::source(),
            event: testing::insert(7, 1, 42),
            failure: Failure {
                stage: Stage::Deliver,
                class: "event".into(),
                message: "POST https://example.com/: 422".into(),
                status: Some(422),
                response: Some("no".into()),
            },
            attempts: 3,
            first_failed_micros: -5,
            last_failed_micros: 1_795_352_707_123_456,
            state: LetterState::Pending,
        }
    }

    fn encoded(of: &DeadLetter) -> Bytes {
        let mut out = Vec::new();
        letter(&mut out, of).unwrap();
        out.into()
    }

    fn assert_same(a: &DeadLetter, b: &DeadLetter) {
        assert_eq!(
            (&a.emitter, &a.source, &a.event),
            (&b.emitter, &b.source, &b.event)
        );
        assert_eq!(
            (&a.failure, a.attempts, a.state),
            (&b.failure, b.attempts, b.state)
        );
        assert_eq!(a.first_failed_micros, b.first_failed_micros);
        assert_eq!(a.last_failed_micros, b.last_failed_micros);
    }

    #[test]
    fn letters_read_back() {
        let letter = sample();
        assert_same(&read_whole(&encoded(&letter)).unwrap(), &letter);
        let mut bare = sample();
        bare.failure.status = None;
        bare.failure.response = None;
        assert_same(&read_whole(&encoded(&bare)).unwrap(), &bare);
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let mut letter = sample();
        letter.failure.message = "é".repeat(MESSAGE_MAX);
        letter.failure.response = Some(format!("x{}", "é".repeat(RESPONSE_MAX)));
        let read = read_whole(&encoded(&letter)).unwrap();
        assert_eq!(read.failure.message, "é".repeat(MESSAGE_MAX / 2));
        assert_eq!(read.failure.response.unwrap().len(), RESPONSE_MAX - 1);
    }

    #[test]
    fn version_one_stays_readable() {
        // Frozen: bytes of the first release. The event behind the metadata has its own fixture.
        let mut out = Vec::new();
        let letter = sample();
        let id = Identity::new(&letter.emitter, letter.event_id());
        state(&mut out, &id, LetterState::Discarded);
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&out), STATE_V1);
        assert_eq!(read(&out), Ok(Record::State(id, LetterState::Discarded)));
        let letter = encoded(&letter);
        let Ok(Record::Letter(record)) = read(&letter) else {
            panic!("a letter");
        };
        assert_eq!(hex(&letter[..record.event_at]), LETTER_V1);
    }

    const STATE_V1: &str = "02fd5a5a5a5a5a5a5a5a070105686f6f6b7304";
    const LETTER_V1: &str = "014b000000fd5a5a5a5a5a5a5a5a070105686f6f6b730003056576656e741e504f53542068747470733a2f2f6578616d706c652e636f6d2f3a2034323201fba60101026e6f0309fd0092b540bac10c00";

    proptest! {
        #[test]
        fn any_bytes_are_safe(kind in 0u8..4, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let payload = [&[kind], &bytes[..]].concat();
            let _ = read(&payload);
            let _ = read_whole(&payload.into());
        }

        #[test]
        fn damaged_letters_are_safe(at in any::<prop::sample::Index>(), to in any::<u8>(), len in any::<prop::sample::Index>()) {
            let mut bytes = encoded(&sample()).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(len.index(bytes.len() + 1));
            let _ = read_whole(&bytes.into());
        }
    }
}
