//! Errors of the server and of the connection, and what each means for capture.

use std::fmt;

use cdc_core::{SourceError, SourceErrorKind};

use super::decode::Reader;

/// The server's ErrorResponse, without its detail: that may hold row values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerError {
    /// SQLSTATE.
    pub(crate) code: String,
    pub(crate) message: String,
}

impl ServerError {
    /// Longest message kept, in bytes.
    const MESSAGE_MAX: usize = 1024;

    /// Reads the body of an ErrorResponse; any bytes give an error.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let (mut code, mut message) = (String::new(), String::new());
        let mut r = Reader::new(body);
        while let Ok(field) = r.u8() {
            let Ok(value) = r.cstr() else { break };
            let value = &value[..value.len().min(Self::MESSAGE_MAX)];
            match field {
                b'C' => code = String::from_utf8_lossy(value).into_owned(),
                b'M' => message = String::from_utf8_lossy(value).into_owned(),
                _ => {}
            }
        }
        Self { code, message }
    }

    /// What the error means, and what to do about it.
    pub(crate) fn meaning(&self) -> (SourceErrorKind, &'static str) {
        use SourceErrorKind::{Configuration, Gap, InUse, Transient, Unreachable, Unsupported};
        let says = |part: &str| self.message.contains(part);
        match self.code.as_str() {
            "28P01" => (Unreachable, "check user and password"),
            "28000" => (
                Unreachable,
                "check the user, its LOGIN right and the server's pg_hba.conf",
            ),
            "3D000" => (Unreachable, "check the database's name"),
            "42501" => (
                Configuration,
                "give the role what it needs: ALTER ROLE ... REPLICATION, SELECT on the tables, ownership to create a publication",
            ),
            "42704" if says("publication") => (
                Configuration,
                "the publication did not exist when the changes were made; create it, then drop the slot and let both be created anew",
            ),
            "42704" => (
                Configuration,
                "create it, or allow this reader to create it",
            ),
            "55006" => (
                InUse,
                "stop the other consumer of the slot, or use another slot",
            ),
            "53400" => (
                Configuration,
                "raise max_replication_slots and restart the server, or drop unused slots",
            ),
            "53300" if says("max_wal_senders") => (
                Configuration,
                "raise max_wal_senders and restart the server, or stop other replication",
            ),
            "55000" if says("wal_level") => (
                Configuration,
                "set wal_level = logical in postgresql.conf and restart the server",
            ),
            "55000" if says("can no longer") || says("cannot read from") || says("invalidated") => {
                (Gap, GAP_REMEDY)
            }
            "58P01" => (Gap, GAP_REMEDY),
            code if code.starts_with("08")
                || code.starts_with("53")
                || code.starts_with("57")
                || code.starts_with("58")
                || code == "40001" =>
            {
                (Transient, "it is tried again")
            }
            "25006" => (
                Configuration,
                "a standby creates nothing, nor does a role or database that is set to read only: name the primary",
            ),
            "0A000" if says("recovery") => (
                Unsupported,
                "a standby before version 16 decodes nothing: name the primary",
            ),
            code if code.starts_with("0A") => (Unsupported, "use PostgreSQL 13 or later"),
            _ => (Configuration, "see the server's log"),
        }
    }

    /// An error about what was attempted.
    pub(crate) fn into_source(self, attempted: impl fmt::Display) -> SourceError {
        let (kind, remedy) = self.meaning();
        SourceError::new(kind, format!("{attempted}: {}; {remedy}", self.message)).with_cause(self)
    }
}

pub(crate) const GAP_REMEDY: &str = "changes are lost to this slot: drop it, copy the tables anew, \
    and start with an empty state or with --accept-gap; a larger max_slot_wal_keep_size keeps more";

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered with SQLSTATE {}", self.code)
    }
}

impl std::error::Error for ServerError {}

/// The connection failed: it may work again by itself.
pub(crate) fn broken(attempted: impl fmt::Display, cause: std::io::Error) -> SourceError {
    SourceError::new(SourceErrorKind::Transient, format!("{attempted}: {cause}")).with_cause(cause)
}

/// The server sent what the protocol does not allow here.
pub(crate) fn protocol(attempted: impl fmt::Display, what: impl fmt::Display) -> SourceError {
    SourceError::new(
        SourceErrorKind::Corrupt,
        format!("{attempted}: {what}; is this a PostgreSQL server?"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server(code: &str, message: &str) -> ServerError {
        let body = format!("SERROR\0C{code}\0M{message}\0Dsecret row\0\0");
        ServerError::parse(body.as_bytes())
    }

    #[test]
    fn every_answer_has_its_meaning_and_remedy() {
        use SourceErrorKind::*;
        for (code, message, kind, remedy) in [
            (
                "28P01",
                "password authentication failed",
                Unreachable,
                "password",
            ),
            (
                "3D000",
                "database \"shpo\" does not exist",
                Unreachable,
                "check the database's name",
            ),
            (
                "55000",
                "logical decoding requires wal_level >= logical",
                Configuration,
                "wal_level = logical",
            ),
            (
                "55000",
                "can no longer get changes from replication slot \"s\"",
                Gap,
                "max_slot_wal_keep_size",
            ),
            (
                "55000",
                "cannot read from logical replication slot \"s\"",
                Gap,
                "copy the tables anew",
            ),
            (
                "58P01",
                "requested WAL segment 0001 has already been removed",
                Gap,
                "drop it",
            ),
            (
                "55006",
                "replication slot \"s\" is active for PID 77",
                InUse,
                "another slot",
            ),
            (
                "42501",
                "must be superuser or replication role to start walsender",
                Configuration,
                "REPLICATION",
            ),
            (
                "42704",
                "publication \"p\" does not exist",
                Configuration,
                "drop the slot",
            ),
            (
                "42704",
                "replication slot \"s\" does not exist",
                Configuration,
                "create",
            ),
            (
                "53400",
                "all replication slots are in use",
                Configuration,
                "max_replication_slots",
            ),
            (
                "57P01",
                "terminating connection due to administrator command",
                Transient,
                "again",
            ),
            (
                "57P03",
                "the database system is starting up",
                Transient,
                "again",
            ),
            ("53300", "too many clients already", Transient, "again"),
            (
                "25006",
                "cannot execute CREATE PUBLICATION in a read-only transaction",
                Configuration,
                "name the primary",
            ),
            (
                "0A000",
                "logical decoding cannot be used while in recovery",
                Unsupported,
                "name the primary",
            ),
            ("XX000", "odd", Configuration, "log"),
        ] {
            let error = server(code, message).into_source("do it");
            assert_eq!(error.kind, kind, "{code} {message}");
            assert!(error.to_string().contains(remedy), "{error}");
            assert!(error.to_string().contains(message), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn any_body_is_an_error(body in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = ServerError::parse(&body).into_source("x");
        }
    }
}
