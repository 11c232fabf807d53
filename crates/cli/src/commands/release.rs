//! `insula releases`, `rollback`, `restart`, `pause`, `resume`, `promote` and `abort`.

use std::collections::BTreeSet;

use insula_api::{
    Client,
    wire::{Deployment, Hook, Release, Steering},
};
use insula_types::{DeploymentState, HookState, ReleaseNumber};

use super::deploy;
use crate::{
    Failure,
    args::{AppSource, ReleasesArgs, RestartArgs, RollbackArgs, SteerArgs},
    output::{age, say, say_json, width},
    table::{Table, clean},
};

pub async fn list(client: &Client, args: &ReleasesArgs) -> Result<(), Failure> {
    let list = client.releases(&args.app).await?;
    if args.json.json {
        say_json(&list)
    } else {
        say(&table(&list.items, client.env().clock.wall_ms()).render(width()))
    }
}

fn table(releases: &[Release], now_ms: u64) -> Table {
    let mut table = Table::new(&["RELEASE", "AGE", "OUTCOME", "IMAGES", "WHAT"]).wrapped();
    for release in releases {
        let mark = if release.is_current { " *" } else { "" };
        let outcomes: Vec<&str> = release.outcomes.iter().map(|outcome| word(outcome.state)).collect();
        let mut what = release
            .again_of
            .map_or_else(|| release.why.clone(), |first| format!("release {first} again: {}", release.why));
        let failed = release.outcomes.iter().find(|outcome| outcome.state == DeploymentState::Failed);
        if let Some(failed) = failed {
            what = failed.why.clone();
        }
        table.row([
            format!("{}{mark}", release.number),
            age(now_ms, release.released_ms),
            outcomes.first().copied().unwrap_or(if release.is_current { "on its way" } else { "" }).to_owned(),
            images(release),
            what,
        ]);
    }
    table
}

/// What a release is made of, short enough to be told from the one before.
fn images(release: &Release) -> String {
    const SHOWN_MAX: usize = 2;
    let short = |image: &String| {
        let (name, digest) = image.split_once("@sha256:").unwrap_or((image, ""));
        let name = name.rsplit('/').next().unwrap_or(name);
        format!("{name}@{}", digest.chars().take(12).collect::<String>())
    };
    let all: BTreeSet<String> = release.images.values().map(short).collect();
    let shown = all.iter().take(SHOWN_MAX).cloned().collect::<Vec<_>>().join(" ");
    if all.len() > SHOWN_MAX { format!("{shown} +{}", all.len() - SHOWN_MAX) } else { shown }
}

const fn word(state: DeploymentState) -> &'static str {
    match state {
        DeploymentState::Before
        | DeploymentState::First
        | DeploymentState::Going
        | DeploymentState::Baking
        | DeploymentState::After => "on its way",
        DeploymentState::Done => "good",
        DeploymentState::Failed => "failed",
    }
}

pub async fn rollback(client: &Client, args: &RollbackArgs) -> Result<(), Failure> {
    let is_json = args.how.json.json;
    let to = args.to.map(ReleaseNumber);
    let plan = client.rollback(&args.app, to, true, None).await?;
    if args.how.plan {
        return if is_json { say_json(&plan) } else { say(&deploy::plan_text(&plan.value)) };
    }
    if !is_json {
        say(&deploy::plan_text(&plan.value))?;
    }
    // What was shown is what is done.
    let done = client.rollback(&args.app, to, false, plan.value.previous).await?;
    deploy::finish(client, &done, &args.how).await
}

pub async fn restart(client: &Client, args: &RestartArgs) -> Result<(), Failure> {
    let (AppSource { app, service }, how) = (&args.source, &args.how);
    let plan = client.restart(app, service.as_ref(), true, None).await?;
    if how.plan {
        return if how.json.json { say_json(&plan) } else { say(&deploy::plan_text(&plan.value)) };
    }
    if !how.json.json {
        say(&deploy::plan_text(&plan.value))?;
    }
    let done = client.restart(app, service.as_ref(), false, plan.value.previous).await?;
    deploy::finish(client, &done, how).await
}

pub async fn steer(client: &Client, args: &SteerArgs, steering: Steering) -> Result<(), Failure> {
    let done = client.steer(&args.app, steering, None).await?;
    if args.json.json { say_json(&done) } else { say(&format!("{}: {}\n", args.app, text(&done.value.deployment))) }
}

/// The hook that runs or is the next, in words; none: there is none.
pub fn running_hook(deployment: &Deployment) -> Option<String> {
    let kind = deployment.state.hooks()?;
    let open = |hook: &&Hook| hook.hook == kind && matches!(hook.state, HookState::Due | HookState::Running);
    let hook = deployment.hooks.iter().find(open)?;
    let name = format!("hook {} of {}", kind.as_str(), hook.service);
    let again = match hook.tries {
        0 | 1 => String::new(),
        tries => format!(", try {tries}"),
    };
    Some(match (hook.state, &hook.node_name, hook.instance) {
        (HookState::Running, Some(node), Some(instance)) => format!("running {name} on {node} ({instance}{again})"),
        (HookState::Running, ..) => format!("running {name}"),
        _ => format!("about to run {name}"),
    })
}

/// How far a deployment is, in a sentence.
pub fn text(deployment: &Deployment) -> String {
    let release = deployment.release;
    let before = deployment.from.map(|from| format!("release {from}"));
    let how = match deployment.state {
        _ if deployment.is_paused => "waits: `insula resume` lets it go on".to_owned(),
        DeploymentState::Before | DeploymentState::After => match running_hook(deployment) {
            Some(hook) => format!("is {hook}"),
            None => "is between its hooks".to_owned(),
        },
        DeploymentState::First if deployment.waits_for_promotion => {
            "tries its first instances, and waits for `insula promote` or `insula abort`".to_owned()
        }
        DeploymentState::First if !deployment.why.is_empty() => {
            format!("tries its first instances, and {}", clean(&deployment.why))
        }
        DeploymentState::First => "tries its first instances".to_owned(),
        DeploymentState::Going => match before {
            Some(before) => format!("takes the place of {before}"),
            None => "is started".to_owned(),
        },
        DeploymentState::Baking if !deployment.why.is_empty() => {
            format!("runs, is watched, and {}", clean(&deployment.why))
        }
        DeploymentState::Baking => match before {
            Some(before) if deployment.returns => format!("runs, and is watched: {before} comes back should it fail"),
            _ => "runs, and is watched".to_owned(),
        },
        DeploymentState::Done if deployment.why.is_empty() => "is out".to_owned(),
        DeploymentState::Done => format!("is out: {}", clean(&deployment.why)),
        DeploymentState::Failed => {
            let why = clean(&deployment.why);
            match before {
                Some(before) if deployment.returns => format!("failed: {why}; {before} comes back"),
                _ if deployment.is_held() => format!("failed: {why}; nothing of it was started"),
                Some(before) => format!("failed: {why}; {before} goes on beside it: `insula rollback` takes it back"),
                None => format!("failed: {why}; it is tried on"),
            }
        }
    };
    format!("release {release} {how}")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_api::wire::ReleaseOutcome;
    use insula_types::{HookKind, InstanceId};

    use super::*;

    #[test]
    fn releases_say_what_became_of_them() {
        let release = |number, state: Option<DeploymentState>, why: &str| Release {
            number: ReleaseNumber(number),
            released_ms: 0,
            is_current: number == 4,
            again_of: (number == 3).then_some(ReleaseNumber(1)),
            why: if number == 3 { "somebody asked for it back".to_owned() } else { String::new() },
            outcomes: state
                .map(|state| ReleaseOutcome {
                    region: "fra".parse().expect("a name"),
                    state,
                    why: why.to_owned(),
                    at_ms: 0,
                })
                .into_iter()
                .collect(),
            images: [("web", number), ("worker", number), ("cron", 1)]
                .map(|(service, of)| {
                    (service.parse().expect("a name"), format!("r/t/shop:1.{of}@sha256:{}", of.to_string().repeat(64)))
                })
                .into_iter()
                .filter(|_| number > 1)
                .collect(),
        };
        let all = [
            release(4, None, ""),
            release(3, Some(DeploymentState::Done), ""),
            release(
                2,
                Some(DeploymentState::Failed),
                "shop/web i-1 on n1 ended 3 times without getting ready: exit code 1",
            ),
            release(1, Some(DeploymentState::Done), ""),
        ];
        expect![[r#"
            RELEASE  AGE  OUTCOME     IMAGES                                       WHAT
            4 *      60s  on its way  shop:1.1@111111111111 shop:1.4@444444444444
            3        60s  good        shop:1.1@111111111111 shop:1.3@333333333333  release 1 again: somebody
                                                                                     asked for it back
            2        60s  failed      shop:1.1@111111111111 shop:1.2@222222222222  shop/web i-1 on n1 ended 3
                                                                                     times without getting
                                                                                     ready: exit code 1
            1        60s  good
        "#]]
        .assert_eq(&table(&all, 60_000).render(Some(100)));
    }

    #[test]
    fn a_deployment_is_told_in_a_sentence() {
        let deployment = |state| Deployment {
            region: "fra".parse().expect("a name"),
            release: ReleaseNumber(2),
            from: Some(ReleaseNumber(1)),
            state,
            is_paused: false,
            waits_for_promotion: false,
            returns: true,
            why: if state == DeploymentState::Failed { "exit code 1".to_owned() } else { String::new() },
            since_ms: 0,
            hooks: Vec::new(),
        };
        let hook = |hook, state, tries| Hook {
            service: "web".parse().expect("a name"),
            hook,
            state,
            tries,
            instance: Some(InstanceId::new(9)),
            node_name: Some("n1".parse().expect("a name")),
            why: String::new(),
        };
        let hooks = |tries| {
            let second = Hook { instance: None, node_name: None, ..hook(HookKind::After, HookState::Due, 0) };
            vec![hook(HookKind::Before, HookState::Running, tries), second]
        };
        let told: Vec<String> = [
            deployment(DeploymentState::Going),
            Deployment { why: String::new(), ..deployment(DeploymentState::Baking) },
            Deployment { why: "waits for n3".to_owned(), ..deployment(DeploymentState::Baking) },
            Deployment { why: "waits for n3".to_owned(), ..deployment(DeploymentState::First) },
            deployment(DeploymentState::Failed),
            Deployment { returns: false, ..deployment(DeploymentState::Failed) },
            Deployment { waits_for_promotion: true, ..deployment(DeploymentState::First) },
            Deployment { is_paused: true, ..deployment(DeploymentState::Going) },
            Deployment { hooks: hooks(1), ..deployment(DeploymentState::Before) },
            Deployment { hooks: hooks(2), ..deployment(DeploymentState::Before) },
            Deployment { hooks: hooks(1), ..deployment(DeploymentState::After) },
            deployment(DeploymentState::After),
            Deployment { why: "shop/web: hook after ended".to_owned(), ..deployment(DeploymentState::Done) },
            Deployment { hooks: hooks(1), from: None, returns: false, ..deployment(DeploymentState::Failed) },
        ]
        .iter()
        .map(text)
        .collect();
        expect![[r#"
            release 2 takes the place of release 1
            release 2 runs, and is watched: release 1 comes back should it fail
            release 2 runs, is watched, and waits for n3
            release 2 tries its first instances, and waits for n3
            release 2 failed: exit code 1; release 1 comes back
            release 2 failed: exit code 1; release 1 goes on beside it: `insula rollback` takes it back
            release 2 tries its first instances, and waits for `insula promote` or `insula abort`
            release 2 waits: `insula resume` lets it go on
            release 2 is running hook before of web on n1 (i-00000009)
            release 2 is running hook before of web on n1 (i-00000009, try 2)
            release 2 is about to run hook after of web
            release 2 is between its hooks
            release 2 is out: shop/web: hook after ended
            release 2 failed: exit code 1; nothing of it was started"#]]
        .assert_eq(&told.join("\n"));
    }
}
