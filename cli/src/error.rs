//! What the command says and returns when something fails: one line for what happened, one for what to do.

use tonic::{Code, Status};

/// Kinds of failure, each with an exit code of its own that scripts can rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Anything that has no kind of its own.
    Failed,
    /// The command or a value of it is wrong.
    Usage,
    /// The thing named does not exist.
    NotFound,
    /// The name is taken, or the state is in conflict with what was asked.
    Conflict,
    /// No engine answered, the cluster has no majority, or the time ran out.
    Unavailable,
    /// The state of things does not allow it: no cluster yet, too few nodes, a disk that does not serve.
    Precondition,
    /// It would destroy or disturb something: `--force` does it all the same.
    Refused,
}

impl Kind {
    /// The process's exit code.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed | Self::Precondition => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Unavailable => 5,
            Self::Refused => 6,
        }
    }

    /// The kind of an engine's refusal.
    pub const fn of_code(code: Code) -> Self {
        match code {
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists | Code::Aborted => Self::Conflict,
            // Tonic reports an expired deadline of its own as cancelled.
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => Self::Unavailable,
            Code::FailedPrecondition => Self::Precondition,
            _ => Self::Failed,
        }
    }
}

/// A failure, ready to be shown.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}")]
pub struct CliError {
    /// Decides the exit code.
    pub kind: Kind,
    /// What happened, naming the thing it happened to.
    pub what: String,
    /// What the user can do about it; empty if the first line says it already.
    pub remedy: String,
}

impl CliError {
    /// A failure of `kind`.
    pub fn new(kind: Kind, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            kind,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// A failure without a kind of its own.
    pub fn failed(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what, remedy)
    }

    /// What an engine answered instead of doing what was asked. Engines write whole sentences, remedy included, so the
    /// command adds a remedy only where it is about the command line itself.
    pub fn of_status(doing: &str, status: &Status) -> Self {
        let kind = Kind::of_code(status.code());
        let message = match status.message() {
            "" => format!("the engine answered {:?} and gave no reason", status.code()),
            message => message.to_owned(),
        };
        let remedy = match status.code() {
            Code::Unimplemented => "the engine is older than this command: upgrade it",
            Code::Internal | Code::Unknown | Code::DataLoss => "the engine's log says more",
            _ => "",
        };
        Self::new(kind, format!("{doing}: {message}"), remedy)
    }

    /// Replaces the remedy.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The lines for stderr.
    pub fn report(&self) -> String {
        if self.remedy.is_empty() {
            format!("error: {}", self.what)
        } else {
            format!("error: {}\n  try: {}", self.what, self.remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_exit_code() {
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::OutOfRange, 2),
            (Code::NotFound, 3),
            (Code::AlreadyExists, 4),
            (Code::Aborted, 4),
            (Code::Unavailable, 5),
            (Code::DeadlineExceeded, 5),
            (Code::Cancelled, 5),
            (Code::FailedPrecondition, 1),
            (Code::Internal, 1),
            (Code::ResourceExhausted, 1),
            (Code::Unimplemented, 1),
        ] {
            assert_eq!(Kind::of_code(code).exit_code(), exit, "{code:?}");
        }
    }

    #[test]
    fn a_report_is_one_line_of_what_and_one_of_what_to_do() {
        let error = CliError::new(
            Kind::Refused,
            "the volume 'v' is attached to a",
            "detach it, or add --force",
        );
        assert_eq!(
            error.report(),
            "error: the volume 'v' is attached to a\n  try: detach it, or add --force"
        );
        assert_eq!(CliError::failed("it broke", "").report(), "error: it broke");
    }

    #[test]
    fn an_engine_that_gives_no_reason_is_not_left_silent() {
        let error = CliError::of_status("cannot list volumes", &Status::new(Code::Internal, ""));
        assert_eq!(
            error.what,
            "cannot list volumes: the engine answered Internal and gave no reason"
        );
        assert_eq!(error.remedy, "the engine's log says more");
    }
}
