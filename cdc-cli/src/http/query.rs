//! What a request asks for: the parameters behind `?`.

use std::time::Duration;

use cdc_core::envelope::Format;
use cdc_core::{EventId, Op, Position, ResumeToken};
use cdc_filter::{EventFilter, FilterConfig};

use super::reply::Refusal;
use crate::assemble::start::{Extent, Start};
use crate::config::parse_duration;

/// Most parameters of one request.
const PARAMETERS_MAX: usize = 64;
/// Longest wait of one poll.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// The parameters, decoded, each use checked off.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`, with `%XX` and `+`.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let parts = text.split('&').filter(|part| !part.is_empty());
        let mut pairs = Vec::new();
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(Refusal::request(
                    "read the query: it holds %XX that is no UTF-8 text",
                ));
            };
            pairs.push((name, value));
            if pairs.len() > PARAMETERS_MAX {
                return Err(Refusal::request(format!(
                    "read the query: it has more than {PARAMETERS_MAX} parameters"
                )));
            }
        }
        Ok(Self(pairs))
    }

    /// Refuses parameters that nobody reads: a misspelled filter must not show everything.
    pub(crate) fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        match self
            .0
            .iter()
            .find(|(name, _)| !known.contains(&name.as_str()))
        {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(64).collect();
                Err(Refusal::request(format!(
                    "read the query: there is no parameter {name:?}; there are {}",
                    known.join(", ")
                )))
            }
        }
    }

    /// The one value of a parameter.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self.0.iter().filter(|(n, _)| n == name);
        let value = values.next().map(|(_, value)| value.as_str());
        if values.next().is_some() {
            return Err(Refusal::request(format!(
                "read the query: {name} stands there twice"
            )));
        }
        Ok(value)
    }

    /// All values of a parameter, which may also be separated by commas.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(n, _)| n == name);
        values
            .flat_map(|(_, value)| value.split(','))
            .filter(|value| !value.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// A number from 1 on.
    pub(crate) fn count(&self, name: &str, default: usize, max: usize) -> Result<usize, Refusal> {
        let Some(text) = self.one(name)? else {
            return Ok(default);
        };
        let count = text.parse().ok().filter(|n| (1..=max).contains(n));
        count.ok_or_else(|| {
            Refusal::request(format!("read {name}: it must be a number from 1 to {max}"))
        })
    }

    /// `wait=30s`, at most a minute.
    pub(crate) fn wait(&self) -> Result<Duration, Refusal> {
        let Some(text) = self.one("wait")? else {
            return Ok(Duration::ZERO);
        };
        let seconds = text.parse().ok().map(Duration::from_secs);
        let wait = seconds.or_else(|| parse_duration(text));
        wait.map(|wait| wait.min(WAIT_MAX)).ok_or_else(|| {
            Refusal::request("read wait: write a duration, such as 30s; a minute at most is waited")
        })
    }

    /// Where to begin: `after` (a token or an event's id), or `from`; and where the client was.
    pub(crate) fn start(&self, last_event_id: Option<&str>) -> Result<Option<Begin>, Refusal> {
        let given = |name| Ok::<_, Refusal>(self.one(name)?.filter(|text| !text.is_empty()));
        let (after, from) = (given("after")?, given("from")?);
        if after.is_some() && from.is_some() {
            return Err(Refusal::request(
                "read the query: after and from both say where to begin; keep one",
            ));
        }
        // A reconnecting client repeats its first query, and knows better by now.
        let after = last_event_id.filter(|id| !id.is_empty()).or(after);
        match (after, from) {
            (Some(after), _) => Begin::after(after).map(Some),
            (None, Some(from)) => Ok(Some(Begin::At(from.parse()?))),
            (None, None) => Ok(None),
        }
    }

    /// What to show: a filter over what is configured.
    pub(crate) fn filter(&self) -> Result<EventFilter, Refusal> {
        let mut operations = Vec::new();
        for name in self.all("operation") {
            let op = Op::from_name(&name);
            let known = || Op::ALL.map(Op::name).join(", ");
            operations.push(op.ok_or_else(|| {
                Refusal::request(format!("read operation: there are {}", known()))
            })?);
        }
        let config = FilterConfig {
            schemas: self.all("schema"),
            tables: self.all("table"),
            operations,
            predicate: self.one("where")?.map(str::to_owned),
        };
        EventFilter::new(&config).map_err(|error| Refusal::request(error.to_string()))
    }

    /// The wire form; the configured one if the request does not say.
    pub(crate) fn format(&self, configured: Format) -> Result<Format, Refusal> {
        let Some(name) = self.one("format")? else {
            return Ok(configured);
        };
        Format::from_name(name)
            .filter(|format| format.is_text())
            .ok_or_else(|| {
                Refusal::request("read format: there are json, debezium and cloudevents")
            })
    }
}

/// Where a reader begins.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Begin {
    /// As configuration and command line say it.
    At(Start),
    /// Behind an event.
    Event(EventId),
}

impl Begin {
    /// Behind a token or an event's id.
    pub(crate) fn after(text: &str) -> Result<Self, Refusal> {
        if !ResumeToken::is_meant(text)
            && let Ok(id) = text.parse::<EventId>()
        {
            return Ok(Self::Event(id));
        }
        match text.parse::<ResumeToken>() {
            Ok(token) => Ok(Self::At(Start::Token(token))),
            Err(error) => Err(Refusal::from(&error)),
        }
    }

    /// As a start in this source, whose events have ids of their own.
    pub(crate) fn start(self, extent: &Extent) -> Result<Start, Refusal> {
        match self {
            Self::At(start) => Ok(start),
            Self::Event(id) if id == EventId::new(extent.lineage(), id.position()) => {
                Ok(Start::Position(id.position()))
            }
            Self::Event(_) => Err(Refusal::new(
                hyper::StatusCode::CONFLICT,
                "token_of_another_source",
                "resume behind an event: its id belongs to another source",
            )),
        }
    }

    /// The position strictly behind which to begin, for whoever holds the events themselves: the
    /// log need not retain what follows, only know that it was there.
    pub(crate) fn held(self, extent: &Extent) -> Result<Position, Refusal> {
        let extent = Extent {
            oldest: Position::ZERO,
            ..extent.clone()
        };
        let start = self.start(&extent)?;
        extent
            .position(&start)
            .map_err(|refusal| Refusal::of_token(&refusal, &extent))
    }
}

/// Decodes `%XX` and `+`; `None` if it is no UTF-8 text.
fn decode(text: &str) -> Option<String> {
    if !text.contains(['%', '+']) {
        return Some(text.to_owned());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (digits, tail) = rest.split_first_chunk::<2>()?;
                rest = tail;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_decoded() {
        let query = Query::parse("table=a%2Cb&table=public.c&where=after.x+%3E+1&limit=5").unwrap();
        assert_eq!(query.all("table"), ["a", "b", "public.c"]);
        assert_eq!(query.one("where").unwrap(), Some("after.x > 1"));
        assert_eq!(query.count("limit", 100, 1000).unwrap(), 5);
        assert_eq!(query.count("absent", 100, 1000).unwrap(), 100);
        assert!(query.one("table").is_err(), "twice");
        assert!(query.only(&["table", "where", "limit"]).is_ok());
        let refused = query.only(&["table", "where"]).unwrap_err();
        assert!(refused.message.contains("no parameter \"limit\""));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in ["a=%", "a=%4", "a=%zz", "a=%ff", &"a=1&".repeat(65)] {
            assert!(Query::parse(text).is_err(), "{text}");
        }
        for text in ["limit=0", "limit=x", "limit=1001"] {
            assert!(Query::parse(text).unwrap().count("limit", 1, 1000).is_err());
        }
        for text in [
            "after=cdc1_x",
            "after=x",
            "from=x",
            "after=cdc1_0&from=latest",
        ] {
            assert!(Query::parse(text).unwrap().start(None).is_err(), "{text}");
        }
        assert!(Query::parse("wait=soon").unwrap().wait().is_err());
        assert_eq!(Query::parse("wait=2h").unwrap().wait().unwrap(), WAIT_MAX);
    }

    #[test]
    fn a_reconnecting_client_knows_better_than_its_first_query() {
        let query = Query::parse("from=earliest").unwrap();
        let token = "cdc1_04130c9i6cq3adhn70sm2oj3chimc000003g0000000mmdq8000000g000001arh8sgg";
        assert_eq!(
            query.start(Some(token)).unwrap(),
            Some(Begin::after(token).unwrap())
        );
        assert_eq!(
            query.start(Some("")).unwrap(),
            Some(Begin::At(Start::Earliest))
        );
    }

    proptest! {
        #[test]
        fn any_query_is_safe(text in "\\PC{0,200}", near in "[a-f0-9%+&=]{0,60}") {
            for text in [text, near] {
                if let Ok(query) = Query::parse(&text) {
                    let _ = (query.start(None), query.wait(), query.filter());
                }
            }
        }
    }
}
