//! What regions override, and their scales, by the real program in the one region that it has.

mod common;

use common::Node;

#[test]
fn a_region_has_what_it_overrides_and_a_scale_of_its_own() {
    let node = Node::start("regions");
    let own = node.until("the node knows its region", || {
        let regions = node.insula(&["regions"], "").stdout;
        let regions = String::from_utf8_lossy(&regions).into_owned();
        regions.lines().nth(1).and_then(|line| line.split(' ').next()).map(str::to_owned)
    });
    let all = "regions = [\"*\"]\nenv = { LOG = \"info\" }\nscale = 1\n";
    let with = |more: &str| format!("{all}[services.web.region.{own}]\nenv = {{ REGION = \"here\" }}\n{more}");
    let shop = |lines: &str| {
        let command = "[\"/bin/sh\", \"-c\", \"while :; do echo $REGION $LOG; sleep 1; done\"]";
        format!("app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = {command}\n{lines}")
    };

    // Nothing is changed by what is wrong, and it is told by line.
    let wrong = shop(&format!("{all}[services.web.region.elsewhere]\nscale = 2\n"));
    let refused = node.insula(&["deploy", "-"], &wrong);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{why}");
    let line = wrong.lines().position(|line| line.contains("elsewhere")).expect("it is there") + 1;
    let said = format!("services.web.region.elsewhere: there is no region elsewhere: there is {own}");
    assert!(why.contains(&format!("line {line}, ")) && why.contains(&said), "{why}");
    assert!(!node.say(&["apps"], "").contains("shop"));

    node.say(&["deploy", "-", "--wait", "1m"], &shop(&with("scale = 2\n")));
    let scale = || {
        let status = node.say(&["status", "shop"], "");
        let of_web = status.lines().find(|line| line.starts_with("web ")).expect("its line");
        of_web.split_whitespace().nth(1).and_then(|scale| scale.parse::<u32>().ok()).expect("a number")
    };
    assert_eq!(scale(), 2, "that of the override");
    node.until("it says what it was given", || node.say(&["logs", "shop"], "").contains("here info").then_some(()));
    let written = node.say(&["config", "show", "shop"], "");
    assert!(
        written.contains(&format!("[services.web.region.{own}]\nenv = {{ REGION = \"here\" }}\nscale = 2\n")),
        "{written}"
    );
    let plan = node.say(&["deploy", "-", "--plan"], &written);
    assert!(plan.contains("nothing to change, release 1 is this already"), "{plan}\n{written}");

    // A scale of the region stays over a release that leaves it open, and over the way back.
    let said = node.say(&["scale", "shop/web", "3", "--region", &own], "");
    assert_eq!(said, format!("shop/web: from 2 to 3 instances in {own}\n"));
    let open = shop(&with("priority = 60\n").replace("scale = 1\n", ""));
    node.say(&["deploy", "-", "--wait", "1m"], &open);
    assert_eq!(scale(), 3);
    node.say(&["rollback", "shop", "--to", "1", "--wait", "1m"], "");
    assert_eq!(scale(), 3);
    node.say(&["scale", "shop/web", "1"], "");
    assert_eq!(scale(), 1, "all regions, whatever they had");
    let nowhere = node.insula(&["scale", "shop/web", "3", "--region", "elsewhere"], "");
    assert_eq!(nowhere.status.code(), Some(3), "{}", String::from_utf8_lossy(&nowhere.stderr));
}
