//! A server whose log ends before what was captured from it: it was restored from an older backup, and
//! gives positions that are known already to changes that are not.

use cdc_core::{
    Lineage, Lsn, Position, ResumeToken, SourceError, SourceErrorKind, SourceInfo, TokenRefusal,
};

use super::check::is_standby;
use super::config::PostgresConfig;
use super::connection::Connection;

/// Refuses such a server. `end` is where what is on its disk ends: it has sent nothing beyond, so
/// neither a crash nor an idle time lets it end before what was captured.
pub(crate) async fn refuse_ahead(
    connection: &mut Connection,
    config: &PostgresConfig,
    info: &SourceInfo,
    resume: Option<Position>,
    end: Lsn,
) -> Result<(), SourceError> {
    let resume = resume.map(|position| ResumeToken::new(info.lineage, position));
    let mut known = resume.iter().chain(&config.captured_to);
    let Some(token) = known.find(|token| is_ahead(token, &info.lineage, end)) else {
        return Ok(());
    };
    let (position, address) = (token.position(), config.address());
    if is_standby(connection).await? {
        // One that was started anew takes in again what it had.
        return Err(SourceError::new(
            SourceErrorKind::Transient,
            format!(
                "resume capture from {address}: what was captured reaches to {position}, this standby has come to {end} so far; it is tried again"
            ),
        ));
    }
    let refusal = TokenRefusal::Ahead {
        token: position,
        end: Position::end_of(end),
    };
    Err(SourceError::new(
        SourceErrorKind::Refused(refusal),
        format!(
            "resume capture from {address}: what was captured reaches to {position}, the server's log ends at {end}: it was restored from an older backup, is a copy, or a failover lost its end, and what it writes from here on would be taken for captured; drop the slot, copy the tables anew, and start with an empty state; if one emitter's checkpoint alone is that far, `position set` moves it"
        ),
    ))
}

/// True of a position of this history that the log has not reached.
fn is_ahead(token: &ResumeToken, lineage: &Lineage, end: Lsn) -> bool {
    let checked = token.check(lineage, Position::ZERO, Position::end_of(end));
    matches!(checked, Err(TokenRefusal::Ahead { .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::setup::lineage;

    #[test]
    fn a_position_is_ahead_only_of_a_log_of_its_history_that_ends_before_it() {
        let ours = lineage(1, 2, 3);
        for (of, position, expected) in [
            (ours, Position::new(Lsn(90), 0), false),
            // All that an idle server has said: everything below its end is sent.
            (ours, Position::before(Lsn(100)), false),
            (ours, Position::end_of(Lsn(100)), false),
            (ours, Position::new(Lsn(101), 0), true),
            (lineage(1, 2, 4), Position::new(Lsn(101), 0), false),
            (lineage(1, 9, 3), Position::new(Lsn(101), 0), false),
        ] {
            let token = ResumeToken::new(of, position);
            assert_eq!(
                is_ahead(&token, &ours, Lsn(100)),
                expected,
                "{position} of {of}"
            );
        }
    }
}
