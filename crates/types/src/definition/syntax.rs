//! The small grammars of a definition's texts. Each check returns what is wrong and what would be right.

use crate::ImageName;

/// Longest host name in bytes (RFC 1035 section 2.3.4, without the final dot).
const HOST_LEN_MAX: usize = 253;
/// Longest path of a route or a check in bytes.
const PATH_LEN_MAX: usize = 512;

/// Signals that may stop an instance.
pub(super) const SIGNALS: [&str; 8] =
    ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"];

type Check = Result<(), &'static str>;

/// A host name in lower case, without port.
pub(super) fn check_host(host: &str) -> Check {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_empty() || host.len() > HOST_LEN_MAX {
        Err("a host name has 1 to 253 characters")
    } else if host.contains(':') || host.contains('/') {
        Err("write the host name alone, without scheme, port or path")
    } else if host.starts_with("*.") {
        Err("not yet: this version does not have wildcards; write each host name")
    } else if host.bytes().any(|b| b.is_ascii_uppercase()) {
        Err("write it in lower case")
    } else if !host.split('.').all(is_label) {
        Err("write a host name like shop.example: labels of a-z, 0-9 and hyphens, with dots between")
    } else if host.split('.').next_back().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit())) {
        Err("an address is not a host name; write a name like shop.example")
    } else {
        Ok(())
    }
}

/// The path of a route: whole segments, as they are compared byte by byte.
pub(super) fn check_route_path(path: &str) -> Check {
    check_request_path(path)?;
    if path.contains(['?', '#', '%', '*']) {
        Err("write a plain path: no query, no wildcard, no percent-encoding")
    } else if path.contains("//") || path.split('/').any(|segment| segment == "." || segment == "..") {
        Err("write it without empty segments, . or ..")
    } else if path.len() > 1 && path.ends_with('/') {
        Err("write it without the final slash: /a takes /a and everything below it")
    } else {
        Ok(())
    }
}

/// The path of a request, with its query.
pub(super) fn check_request_path(path: &str) -> Check {
    if !path.starts_with('/') {
        Err("it must begin with /")
    } else if path.len() > PATH_LEN_MAX {
        Err("it may have 512 characters at most")
    } else if !path.bytes().all(|b| b.is_ascii_graphic()) {
        Err("write it in printable ASCII without spaces")
    } else {
        Ok(())
    }
}

/// An image, by tag or by digest.
pub(super) fn check_image(image: &str) -> Check {
    image.parse::<ImageName>().map(|_| ()).map_err(|error| error.0)
}

/// The name of an environment variable.
pub(super) fn check_variable(name: &str) -> Check {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.len() > 256 || !name.bytes().all(is_good) || name.as_bytes()[0].is_ascii_digit() {
        Err("a variable's name has letters, digits and underscores, and does not begin with a digit")
    } else {
        Ok(())
    }
}

/// A directory of an instance at which something is mounted.
pub(super) fn check_mount_path(path: &str) -> Check {
    let is_segment = |segment: &str| !segment.is_empty() && segment != "." && segment != "..";
    let is_within = |top: &str| path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if path.len() > PATH_LEN_MAX {
        Err("it may have 512 characters at most")
    } else if path.chars().any(char::is_control) {
        Err("it may not contain control characters")
    } else if !path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(is_segment)) {
        Err("write an absolute path like /data, without empty segments, . or .., and without the final slash")
    } else if ["/proc", "/sys", "/dev"].into_iter().any(is_within) && !is_within("/dev/shm") {
        Err("/proc, /sys and /dev are the runtime's own; choose another directory")
    } else {
        Ok(())
    }
}

/// A file of an instance.
pub(super) fn check_file_path(path: &str) -> Check {
    check_mount_path(path)?;
    if path.starts_with("/dev/") { Err("/dev is the runtime's own; choose another path") } else { Ok(()) }
}

/// The name of a gRPC service; empty stands for the server as a whole.
pub(super) fn check_grpc_service(name: &str) -> Check {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
    if name.len() > PATH_LEN_MAX || !name.bytes().all(is_good) {
        Err("write a gRPC service like shop.v1.Cart, or \"\" for the server as a whole")
    } else {
        Ok(())
    }
}

/// Text that is handed to a program.
pub(super) fn check_argument(text: &str) -> Check {
    if text.contains('\0') { Err("it contains a NUL character, which no program can receive") } else { Ok(()) }
}
