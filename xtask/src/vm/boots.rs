//! Which test programs run in which boot of the virtual machine.

use anyhow::{Result, bail};
use clap::{Args, value_parser};

/// What is to run; without anything, all.
#[derive(Debug, Args)]
pub(crate) struct VmArgs {
    /// Only this test program, one of those of `crates/container/tests` that run there; can be repeated
    #[arg(long, value_name = "PROGRAM")]
    only: Vec<String>,
    /// Only tests with this in their names
    #[arg(long, value_name = "PART", requires = "only")]
    test: Option<String>,
    /// So many times in one boot
    #[arg(long, value_name = "N", requires = "only", default_value_t = 1, value_parser = value_parser!(u16).range(1..=100))]
    times: u16,
}

impl Default for VmArgs {
    fn default() -> Self {
        Self { only: Vec::new(), test: None, times: 1 }
    }
}

/// A test program, as it is run in the machine.
#[derive(Debug, Clone, Copy)]
struct Tests {
    /// Name of the file in `crates/container/tests`.
    name: &'static str,
    /// Tests that cannot run there, or to which the kernel does not matter.
    without: &'static [&'static str],
}

/// What runs in each boot, in this order; another test program of `crates/container` is one more line. Not there: `images`,
/// `imports`, `registries` and `processes` (nothing of control groups is in them), `kills` (it goes on for long), and `budgets`
/// (it measures time, and emulation has another).
const BOOTS: [&[Tests]; 2] = [
    &[
        Tests { name: "containers", without: &["a_failed_start_says_why", "a_start_that_nobody_waits_for"] },
        Tests { name: "unified", without: &[] },
        Tests { name: "exec", without: &["bytes_go_both_ways", "processes_are_not_entered"] },
        Tests { name: "one_offs", without: &["there_is_room_for_so_many", "a_service_that_is_no_container"] },
        Tests { name: "storage", without: &[] },
        Tests { name: "layers", without: &[] },
        Tests { name: "escapes", without: &[] },
        // Last: what it starts runs when the power is cut.
        Tests { name: "reboot", without: &[] },
    ],
    &[Tests { name: "reboot", without: &[] }],
];

/// One boot of the machine, in which at least one test program runs.
#[derive(Debug)]
pub(crate) struct Boot {
    /// Told to the machine; the first is 1.
    pub number: usize,
    /// How often all of the programs run.
    pub times: usize,
    tests: Vec<Tests>,
    /// Part of the names of the tests that run; all have the empty one.
    part: String,
}

/// The boots that are needed, in their order.
///
/// # Errors
/// When no program has the name that was asked for.
pub(crate) fn chosen(arguments: &VmArgs) -> Result<Vec<Boot>> {
    let known = BOOTS[0].iter().map(|tests| tests.name).collect::<Vec<_>>();
    if let Some(name) = arguments.only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("no test program {name} runs in the machine; these do: {}", known.join(", "));
    }
    let is_wanted = |tests: &&Tests| arguments.only.is_empty() || arguments.only.iter().any(|name| name == tests.name);
    let boots = (1..).zip(BOOTS).map(|(number, tests)| Boot {
        number,
        times: arguments.times.into(),
        tests: tests.iter().filter(is_wanted).copied().collect(),
        part: arguments.test.clone().unwrap_or_default(),
    });
    Ok(boots.filter(|boot| !boot.tests.is_empty()).collect())
}

impl Boot {
    /// The names of the programs, in the order in which they run.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        let names = self.tests.iter().map(|tests| tests.name);
        std::iter::repeat_n(names, self.times).flatten().collect()
    }

    /// One line for each run of a test program: its name and arguments.
    pub(crate) fn script(&self) -> String {
        let line = |tests: &Tests| {
            let without = tests.without.iter().map(|name| format!(" --skip {name}"));
            let part = Some(&self.part).filter(|part| !part.is_empty()).map(|part| format!(" {part}"));
            let words: String = part.into_iter().chain(without).collect();
            format!("{}{words}\n", tests.name)
        };
        self.tests.iter().map(line).collect::<String>().repeat(self.times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scripts(only: &[&str], test: Option<&str>, times: u16) -> Result<Vec<String>> {
        let only = only.iter().map(|name| (*name).to_owned()).collect();
        let boots = chosen(&VmArgs { only, test: test.map(str::to_owned), times })?;
        Ok(boots.iter().map(Boot::script).collect())
    }

    #[test]
    fn a_script_names_what_is_left_out() {
        let all = scripts(&[], None, 1).expect("all");
        assert_eq!(all.len(), 2);
        assert!(all[0].contains("\nexec --skip bytes_go_both_ways --skip processes_are_not_entered\n"), "{all:?}");
        assert_eq!(all[1], "reboot\n");
    }

    #[test]
    fn programs_can_be_chosen_and_repeated() {
        assert_eq!(scripts(&["unified"], Some("limits"), 1).expect("it runs"), ["unified limits\n"]);
        let script = "unified\nescapes\n".repeat(2);
        assert_eq!(scripts(&["escapes", "unified"], None, 2).expect("they run"), [script]);
        assert_eq!(scripts(&["reboot"], None, 1).expect("it runs"), ["reboot\n", "reboot\n"]);
        let refused = scripts(&["unified", "images"], None, 1).expect_err("it does not run there");
        assert!(
            refused.to_string().contains("no test program images runs in the machine; these do: containers, "),
            "{refused}"
        );
    }
}
