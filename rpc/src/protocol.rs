//! The version of the conversation between frontends and management, and the check that both speak the same.
//!
//! Each call of a frontend, and each answer, has the version in a header: it is known before anything of the body is
//! read, whose form depends on it. Invariant: no body is understood by the rules of another version.

use std::fmt;

/// The version that this program speaks. Raise it with every change of the bodies of `follow` and `exchange` that the
/// other side must know of. Version 1 had no header.
pub const PROTOCOL: u32 = 2;
/// The header that holds the version.
pub const PROTOCOL_HEADER: &str = "clipper-protocol";
/// The version of programs that are older than the header.
const WITHOUT_HEADER: u32 = 1;

/// A frontend and a management that speak different versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct ProtocolMismatch {
    /// The version that the frontend speaks.
    pub frontend: u32,
    /// The version that management speaks.
    pub management: u32,
}

impl fmt::Display for ProtocolMismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frontend, management } = self;
        let older = if frontend < management { "the frontend" } else { "management" };
        write!(
            formatter,
            "the frontend speaks protocol {frontend} and management protocol {management}; upgrade {older} to the \
             version of the other: until then the frontend serves what it knows"
        )
    }
}

/// Checks the header of a frontend's call.
///
/// # Errors
/// If the frontend speaks another version than this management.
pub fn check_frontend(header: Option<&str>) -> Result<(), ProtocolMismatch> {
    let frontend = version(header);
    if frontend == PROTOCOL { Ok(()) } else { Err(ProtocolMismatch { frontend, management: PROTOCOL }) }
}

/// Checks the header of management's answer.
///
/// # Errors
/// If management speaks another version than this frontend.
pub fn check_management(header: Option<&str>) -> Result<(), ProtocolMismatch> {
    let management = version(header);
    if management == PROTOCOL { Ok(()) } else { Err(ProtocolMismatch { frontend: PROTOCOL, management }) }
}

/// The version that a header states. One that is illegible is taken for an older version than all.
fn version(header: Option<&str>) -> u32 {
    header.map_or(WITHOUT_HEADER, |version| version.parse().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_take_their_own_version_alone_and_say_which_program_is_older() {
        let own = PROTOCOL.to_string();
        assert_eq!(check_frontend(Some(&own)), Ok(()));
        assert_eq!(check_management(Some(&own)), Ok(()));
        let says = |mismatch: Result<(), ProtocolMismatch>| mismatch.unwrap_err().to_string();
        let older_frontend = says(check_frontend(None));
        assert!(
            older_frontend
                .contains("frontend speaks protocol 1 and management protocol 2; upgrade the frontend")
        );
        let older_management = says(check_management(None));
        assert!(older_management.contains("management protocol 1; upgrade management"), "{older_management}");
        assert!(says(check_management(Some("99"))).contains("upgrade the frontend"));
        assert!(says(check_frontend(Some("x"))).contains("upgrade the frontend"));
    }
}
