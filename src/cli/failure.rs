//! How a command ends when it does not end well.

use std::io;
use std::process::ExitCode;

use crate::types::Error;

/// Exit code and message of a command that did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// The command line or the configuration is wrong.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// The reader of the output went away: it has what it wanted.
    fn nobody_reads() -> Self {
        Self { code: 0, message: String::new() }
    }

    /// Says what happened on standard error and gives the exit code.
    pub(super) fn tell(&self) -> ExitCode {
        if !self.message.is_empty() {
            // Nobody is left to tell when this fails too.
            let _ = io::Write::write_all(&mut io::stderr(), format!("error: {}\n", self.message).as_bytes());
        }
        ExitCode::from(self.code)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::nobody_reads(),
            _ => Self::failed(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure, Failure::nobody_reads());
        assert_eq!(failure.tell(), ExitCode::SUCCESS);
    }

    #[test]
    fn an_error_keeps_its_message_and_fails() {
        assert_eq!(Failure::from(Error::unavailable("redis is away")), Failure::failed("redis is away"));
    }
}
