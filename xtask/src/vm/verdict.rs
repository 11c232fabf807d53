//! What the console of the virtual machine says, judged.

/// Lines that are shown when something went wrong.
const END_LINES: usize = 30;

/// Shows a line when it tells how a test went.
pub(crate) fn print(line: &str) {
    if line.starts_with("test ") {
        println!("   {line}");
    } else if let Some(name) = line.strip_prefix("vm: begin ") {
        println!("   {name}");
    }
}

/// Shows the end of what was said, and then what the tests that failed said.
pub(crate) fn print_why(lines: &[String]) {
    let end = lines[lines.len().saturating_sub(END_LINES)..].iter().map(String::as_str).collect();
    for (title, lines) in [("the end", end), ("failures", failures(lines))] {
        println!("   {title}");
        for line in lines {
            println!("   │ {line}");
        }
    }
}

/// Of each test program, what it says between `failures:` and its result.
fn failures(lines: &[String]) -> Vec<&str> {
    let mut is_inside = false;
    let told = lines.iter().filter(|line| {
        is_inside = !line.starts_with("test result: ") && (is_inside || *line == "failures:");
        is_inside
    });
    told.map(String::as_str).collect()
}

/// Whether all of these test programs ran, with at least one test each, none skipped, and the machine came to its end.
///
/// # Errors
/// What is wrong.
pub(crate) fn judge(programs: &[&str], lines: &[String]) -> Result<(), String> {
    let mut left = programs.iter();
    let mut passed = 0;
    for line in lines {
        if line.starts_with("skipped: ") {
            return Err(format!("a test says {line:?}"));
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            passed = rest.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0);
        }
        let Some(ended) = line.strip_prefix("vm: end ") else { continue };
        let expected = left.next().map_or_else(String::new, |name| format!("{name} 0"));
        if ended != expected {
            return Err(format!("{expected:?} expected, {ended:?} seen"));
        }
        if std::mem::take(&mut passed) == 0 {
            return Err(format!("{ended:?} without a test that passed"));
        }
    }
    match (left.next(), lines.iter().any(|line| line == "vm: over")) {
        (None, true) => Ok(()),
        (Some(name), _) => Err(format!("it ended, or was ended, before {name} had")),
        (None, false) => Err("it ended, or was ended, too early".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "vm: begin one\ntest a ... ok\ntest result: ok. 1 passed; 0 failed\nvm: end one 0\nvm: begin two\n\
        test b ... ok\ntest result: ok. 2 passed; 0 failed\nvm: end two 0\nvm: over";

    fn verdict(text: &str) -> Result<(), String> {
        judge(&["one", "two"], &text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn what_failed_tests_said_is_found() {
        let said = "test a ... ok\nsuccesses:\nfine\nfailures:\n---- b stdout ----\nwrong\ntest result: FAILED. 1 passed\nvm: over";
        let lines: Vec<_> = said.lines().map(str::to_owned).collect();
        assert_eq!(failures(&lines), ["failures:", "---- b stdout ----", "wrong"]);
    }

    #[test]
    fn only_a_whole_run_without_failures_is_good() {
        assert_eq!(verdict(GOOD), Ok(()));
        let bad = [
            ("end one 0", "end one 101"),
            ("end two 0", "end two 139"),
            ("test a ... ok", "skipped: a needs root"),
            ("2 passed", "0 passed"),
            ("vm: over", ""),
            ("test result: ok. 2 passed; 0 failed", ""),
            ("vm: end two 0\n", ""),
            ("vm: end one 0\n", ""),
        ];
        for (good, bad) in bad {
            assert!(GOOD.contains(good), "{good}");
            verdict(&GOOD.replace(good, bad)).expect_err(bad);
        }
        verdict("").expect_err("nothing");
    }
}
