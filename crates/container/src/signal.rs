//! Names of signals, as in `kill -l`, with SIG; images also leave that out, or give numbers.

/// Those that a definition may name; numbers differ between architectures, so the library's are used.
const SIGNALS: [(&str, i32); 12] = [
    ("SIGHUP", libc::SIGHUP),
    ("SIGINT", libc::SIGINT),
    ("SIGQUIT", libc::SIGQUIT),
    ("SIGABRT", libc::SIGABRT),
    ("SIGKILL", libc::SIGKILL),
    ("SIGUSR1", libc::SIGUSR1),
    ("SIGUSR2", libc::SIGUSR2),
    ("SIGPIPE", libc::SIGPIPE),
    ("SIGALRM", libc::SIGALRM),
    ("SIGTERM", libc::SIGTERM),
    ("SIGCONT", libc::SIGCONT),
    ("SIGWINCH", libc::SIGWINCH),
];

/// The number of a signal.
pub(crate) fn number(name: &str) -> Option<i32> {
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// Greatest number of a signal that an image may name.
const IMAGE_SIGNAL_MAX: i32 = 64;

/// The number of a signal as an image names it: `SIGQUIT`, `QUIT`, `3` or `SIGRTMIN+3`.
pub(crate) fn of_image(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=IMAGE_SIGNAL_MAX).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(above) = name.strip_prefix("RTMIN+") {
        let number = above.parse().ok().and_then(|above: i32| libc::SIGRTMIN().checked_add(above))?;
        return (number <= IMAGE_SIGNAL_MAX).then_some(number);
    }
    number(&format!("SIG{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_of_images_are_understood() {
        for (name, expected) in [
            ("SIGQUIT", Some(libc::SIGQUIT)),
            ("quit", Some(libc::SIGQUIT)),
            ("28", Some(28)),
            ("SIGRTMIN+3", Some(libc::SIGRTMIN() + 3)),
            ("0", None),
            ("65", None),
            ("SIGRTMIN+99", None),
            ("SIGNOTHING", None),
            ("", None),
        ] {
            assert_eq!(of_image(name), expected, "{name:?}");
        }
    }
}
