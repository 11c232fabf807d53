//! `insula deploy`: shows what changes, deploys, and tells how it goes until all is ready.

use std::{
    collections::BTreeSet,
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use insula_api::{
    Client, ClientError,
    wire::{
        AppStatus, Change, ChangeKind, DeployAnswer, Deployment, InstanceState, RegionChanges, ResolvedImage, Versioned,
    },
};
use insula_env::clock;
use insula_types::{
    AppDefinition, AppName, DeploymentState, HookKind, ReleaseNumber, Revision,
    definition::{Places, format_duration},
};
use serde_json::Value;

use super::release;
use crate::{
    Exit, Failure,
    args::{DeployArgs, ReleaseArgs},
    output::{say, say_json},
    table::clean,
};

/// Shortest time between two looks at an app, should the node answer at once.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How often the spinner turns.
const TURN_EVERY: Duration = Duration::from_millis(100);

/// A deploy whose definition is valid.
pub struct Deploy {
    pub args: DeployArgs,
    pub definition: AppDefinition,
    /// Where its values are in its file.
    pub places: Places,
}

pub async fn run(client: &Client, deploy: Deploy) -> Result<(), Failure> {
    let Deploy { args, mut definition, places } = deploy;
    let how = &args.how;
    let is_json = how.json.json;
    let plan = client.plan(&definition).await.map_err(|error| placed(error, &places))?;
    if how.plan {
        return if is_json { say_json(&plan) } else { say(&plan_text(&plan.value)) };
    }
    if !is_json {
        say(&plan_text(&plan.value))?;
    }
    // What was shown is what is done: tags are not looked up again, and another release meanwhile is a conflict.
    pin(&mut definition, &plan.value.resolved);
    let expected = plan.value.previous.unwrap_or(ReleaseNumber(0));
    let done = client.deploy(&definition, Some(expected)).await.map_err(|error| placed(error, &places))?;
    finish(client, &done, how).await
}

/// Writes what tags stand for into a definition.
fn pin(definition: &mut AppDefinition, resolved: &[ResolvedImage]) {
    for ResolvedImage { service, image, .. } in resolved {
        if let (Some(service), Ok(image)) = (definition.services.get_mut(service), image.parse()) {
            service.set_image(image);
        }
    }
}

/// What is wrong with a definition, by the lines of its file instead of those that were sent.
fn placed(mut error: ClientError, places: &Places) -> ClientError {
    if let ClientError::Problem(problem) = &mut error {
        places.fill(&mut problem.problems);
    }
    error
}

/// Waits for a release, unless it is left to itself.
pub async fn finish(client: &Client, done: &Versioned<DeployAnswer>, how: &ReleaseArgs) -> Result<(), Failure> {
    let is_json = how.json.json;
    if how.detach {
        return if is_json { say_json(done) } else { say(&format!("release {} is made\n", done.value.release)) };
    }
    let progress = Progress::new(is_json);
    settle(client, done, how.wait, &progress).await?;
    if is_json { say_json(done) } else { Ok(()) }
}

/// Waits until all that shall run is ready; says what changes meanwhile, and at the end of the patience, why not.
async fn settle(
    client: &Client,
    done: &Versioned<DeployAnswer>,
    patience: Duration,
    progress: &Progress,
) -> Result<(), Failure> {
    let app = &done.value.app;
    let mut last = None;
    let watched = clock::timeout(patience, async {
        let mut wait: Option<Revision> = None;
        loop {
            let status = client.app_status(app, wait).await?;
            if status.value.release > done.value.release {
                let failure = match superseded(client, &done.value, status.value.release).await {
                    Superseded::Returned(failure) => {
                        // What comes back is watched until it is there.
                        if of_release(&status.value, status.value.release).is_none() || !status.value.is_ready() {
                            progress.show(&status.value);
                            last = Some(status.value);
                            clock::sleep(LOOK_EVERY).await;
                            continue;
                        }
                        failure
                    }
                    Superseded::Deployed(failure) => failure,
                };
                return Err(failure);
            }
            if let Some(deployment) = of_release(&status.value, done.value.release) {
                if deployment.state == DeploymentState::Failed && !deployment.returns {
                    return Err(failed(app, deployment));
                }
                if deployment.waits_for_promotion && has_first(&status.value) {
                    return Ok(status.value);
                }
            }
            if status.value.release == done.value.release && status.value.is_settled() {
                return Ok(status.value);
            }
            progress.show(&status.value);
            // Copies of images come without a change of the state.
            wait = (!status.value.is_ready()).then_some(status.revision);
            last = Some(status.value);
            clock::sleep(LOOK_EVERY).await;
        }
    })
    .await;
    progress.end();
    match watched {
        Ok(Ok(status)) => {
            let said = match of_release(&status, done.value.release) {
                Some(deployment) if deployment.state != DeploymentState::Done => {
                    format!("{app}: {}; {}", summary(&status), release::text(deployment))
                }
                _ => format!("{app} runs release {}: {}", status.release, summary(&status)),
            };
            progress.say(&said)
        }
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(unsettled(client, done, patience, last).await),
    }
}

/// How far the region is with a release; none before it knows of it.
fn of_release(status: &AppStatus, release: ReleaseNumber) -> Option<&Deployment> {
    status.deployment.as_ref().filter(|deployment| deployment.release == release)
}

/// Whether the first instances of the release are ready that shall be looked at by a person.
fn has_first(status: &AppStatus) -> bool {
    status.services.iter().any(|service| service.ready_of_release > 0 && service.ready > service.ready_of_release)
}

fn failed(app: &AppName, deployment: &Deployment) -> Failure {
    let said = format!("{app}: release {} failed: {}", deployment.release, clean(&deployment.why));
    Failure::new(Exit::Failed, said).hint(&match deployment.from {
        _ if deployment.is_held() => {
            format!("nothing of it was started; once that is mended: insula deploy, or insula restart {app}")
        }
        Some(from) => format!("release {from} goes on beside it; take it back: insula rollback {app}"),
        None => format!("it is tried on; look at it: insula ps {app}, insula logs {app}"),
    })
}

/// What became of a release over which there is another.
enum Superseded {
    /// It failed, and an earlier one comes back.
    Returned(Failure),
    /// Somebody deployed over it.
    Deployed(Failure),
}

/// Why another release runs than the one that was made: it failed and was taken back, or somebody deployed over it.
async fn superseded(client: &Client, done: &DeployAnswer, now: ReleaseNumber) -> Superseded {
    let releases = client.releases(&done.app).await.map(|list| list.items).unwrap_or_default();
    let of = |number| releases.iter().find(|release| release.number == number);
    let back = of(now).and_then(|release| release.again_of);
    let outcomes = of(done.release).into_iter().flat_map(|release| &release.outcomes);
    let why = outcomes.filter(|outcome| outcome.state == DeploymentState::Failed).map(|outcome| &outcome.why).next();
    if let (Some(back), Some(why)) = (back, why) {
        let said = format!("{}: release {} failed: {}", done.app, done.release, clean(why));
        let failure = Failure::new(Exit::Failed, said).hint(&format!("release {back} is back, as release {now}"));
        return Superseded::Returned(failure);
    }
    let said = format!("{}: release {now} was deployed over release {} meanwhile", done.app, done.release);
    Superseded::Deployed(Failure::new(Exit::Conflict, said).hint(&format!("see `insula status {}`", done.app)))
}

/// Why an app is not ready, as its instances say it.
async fn unsettled(
    client: &Client,
    done: &Versioned<DeployAnswer>,
    patience: Duration,
    last: Option<AppStatus>,
) -> Failure {
    let DeployAnswer { app, release, .. } = &done.value;
    let said =
        format!("{app}: release {release} is not ready after {}; it goes on by itself", format_duration(patience));
    let mut failure = Failure::new(Exit::TimedOut, said);
    if let Some(status) = last {
        failure = failure.hint(&summary(&status));
        for problem in &status.problems {
            failure = failure.hint(&clean(problem));
        }
    }
    let instances = client.instances(Some(app)).await.map(|list| list.items).unwrap_or_default();
    for instance in instances.iter().filter(|instance| !instance.is_ready && !instance.message.is_empty()).take(5) {
        failure = failure.hint(&format!(
            "{} on {} {}: {}",
            instance.id,
            instance.node_name,
            match instance.state {
                InstanceState::Backoff => "waits before it starts again".to_owned(),
                state => format!("is {}", state.as_str()),
            },
            clean(&instance.message)
        ));
    }
    failure.hint(&format!("look on: insula ps {app}, insula logs {app}"))
}

/// Where it runs, as none of it runs here.
fn elsewhere(status: &AppStatus) -> Option<String> {
    let regions: BTreeSet<&str> = status.regions.iter().map(|one| one.region.as_str()).collect();
    let regions: Vec<&str> = regions.into_iter().collect();
    (!regions.is_empty()).then(|| format!("nothing of it runs in this region, but in {}", regions.join(", ")))
}

fn summary(status: &AppStatus) -> String {
    let service = |service: &insula_api::wire::ServiceStatus| {
        let before = match service.ready.saturating_sub(service.ready_of_release) {
            0 => String::new(),
            count => format!(", and {count} of another release"),
        };
        format!("{} {} of {} ready{before}", service.service, service.ready_of_release, service.scale)
    };
    let missing = status.images.iter().filter(|image| image.copies < image.wanted).map(|image| {
        let name = image.image.split_once('@').map_or(image.image.as_str(), |(name, _)| name);
        format!("{} on {} of {} nodes", clean(name), image.copies, image.wanted)
    });
    let elsewhere = if status.services.is_empty() { elsewhere(status) } else { None };
    status.services.iter().map(service).chain(missing).chain(elsewhere).collect::<Vec<_>>().join(", ")
}

/// What a deploy changes, for people.
pub fn plan_text(plan: &DeployAnswer) -> String {
    let heading = match plan.previous {
        None => format!("{}: new app, release {}\n", plan.app, plan.release),
        Some(previous) if previous == plan.release && plan.changes.is_empty() => {
            format!("{}: nothing to change, release {previous} is this already\n", plan.app)
        }
        Some(previous) if previous == plan.release => format!("{}: release {previous} stays\n", plan.app),
        Some(previous) => format!("{}: release {previous} to {}\n", plan.app, plan.release),
    };
    let mut out = heading;
    let named = plan.resolved.iter().map(|one| {
        let (_, digest) = one.image.split_once('@').unwrap_or_default();
        format!("  image {} is now {}\n", clean(&one.written), clean(digest))
    });
    out.extend(named.collect::<BTreeSet<_>>());
    if plan.regions.is_empty() {
        plan.changes.iter().for_each(|change| change_text(change, "", &mut out));
    } else {
        plan.changes
            .iter()
            .filter(|change| is_of_all_regions(change))
            .for_each(|change| change_text(change, "", &mut out));
        for RegionChanges { region, changes } in &plan.regions {
            let nothing = if changes.is_empty() { " nothing changes" } else { "" };
            out.push_str(&format!("  in {region}:{nothing}\n"));
            changes.iter().for_each(|change| change_text(change, "  ", &mut out));
        }
    }
    for hook in &plan.hooks {
        let when = match hook.hook {
            HookKind::Before => "before its first instance",
            HookKind::After => "when it is out",
        };
        let command: Vec<String> = hook.command.iter().map(|part| clean(part)).collect();
        out.push_str(&format!(
            "  runs hook {} of {} {when}: {}\n",
            hook.hook.as_str(),
            hook.service,
            command.join(" ")
        ));
    }
    for warning in &plan.warnings {
        out.push_str(&format!("warning: {}\n", clean(warning)));
    }
    out
}

/// Whether a change is not told region by region: where a service runs, in which order, and which versions its secrets have.
fn is_of_all_regions(change: &Change) -> bool {
    let key = change.path.splitn(3, '.').nth(2).unwrap_or_default();
    key == "regions" || key == "update.region_order" || key.starts_with("secrets.")
}

/// `margin`: how much further in than usual.
fn change_text(change: &Change, margin: &str, out: &mut String) {
    let path = change.path.strip_prefix("services.").unwrap_or(&change.path);
    let value = |value: &Value| match value {
        Value::String(text) => clean(text),
        // As it is written in the file.
        other => clean(&AppDefinition::value_to_toml(other)),
    };
    match (change.kind, &change.to) {
        (ChangeKind::Added, Value::Object(fields)) => {
            out.push_str(&format!("{margin}  + {path}\n"));
            for (key, field) in fields {
                out.push_str(&format!("{margin}      {key}: {}\n", value(field)));
            }
        }
        (ChangeKind::Added, to) => out.push_str(&format!("{margin}  + {path}: {}\n", value(to))),
        (ChangeKind::Removed, _) => out.push_str(&format!("{margin}  - {path}\n")),
        (ChangeKind::Changed, to) => {
            out.push_str(&format!("{margin}  ~ {path}: {} -> {}\n", value(&change.from), value(to)));
        }
    }
}

/// A spinner on a terminal, lines elsewhere.
enum Progress {
    Spinner(ProgressBar),
    Lines(parking_lot::Mutex<String>),
    Silent,
}

impl Progress {
    fn new(is_silent: bool) -> Self {
        if is_silent {
            return Self::Silent;
        }
        if !io::stderr().is_terminal() || !io::stdout().is_terminal() {
            return Self::Lines(parking_lot::Mutex::default());
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TURN_EVERY);
        Self::Spinner(bar)
    }

    fn show(&self, status: &AppStatus) {
        let mut text = summary(status);
        let failed = status.deployment.as_ref().filter(|deployment| deployment.state == DeploymentState::Failed);
        if let Some(failed) = failed {
            text.push_str(&format!(" ({})", release::text(failed)));
        } else if let Some(hook) = status.deployment.as_ref().and_then(release::running_hook) {
            let problem = status.problems.first().map(|problem| format!(": {}", clean(problem)));
            text.push_str(&format!(" ({hook}{})", problem.unwrap_or_default()));
        } else if let Some(problem) = status.problems.first() {
            text.push_str(&format!(" ({})", clean(problem)));
        }
        match self {
            Self::Spinner(bar) => bar.set_message(text),
            Self::Lines(last) => {
                let mut last = last.lock();
                if *last != text {
                    // Progress is no answer; who cannot read it any more shall still learn the outcome.
                    eprintln!("{text}");
                    *last = text;
                }
            }
            Self::Silent => {}
        }
    }

    fn say(&self, text: &str) -> Result<(), Failure> {
        if matches!(self, Self::Silent) { Ok(()) } else { say(&format!("{text}\n")) }
    }

    fn end(&self) {
        if let Self::Spinner(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use insula_api::wire::PlannedHook;
    use insula_types::definition::Format;

    use super::*;

    fn definition(text: &str) -> AppDefinition {
        AppDefinition::parse(text, Format::Toml).expect("valid")
    }

    #[test]
    fn a_plan_is_shown_for_people() {
        let one = definition("app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = [\"a\"]\n");
        let two = definition(
            "app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = [\"b\"]\nscale = 3\n\
             [services.worker]\nruntime = \"process\"\ncommand = [\"w\"]\nenv = { A = \"1\" }",
        );
        let plan = |previous: Option<u64>, release, from, to| DeployAnswer {
            app: AppName::new("shop").expect("a label"),
            release: ReleaseNumber(release),
            previous: previous.map(ReleaseNumber),
            changes: insula_api::changes(from, to),
            regions: Vec::new(),
            is_plan: true,
            resolved: Vec::new(),
            warnings: Vec::new(),
            hooks: Vec::new(),
        };
        let warned = DeployAnswer {
            warnings: vec!["were node n1 lost, 1 of shop/web would find no place: no room".to_owned()],
            ..plan(Some(1), 1, Some(&one), &one)
        };
        let hook = |hook, command: &str| PlannedHook {
            service: "web".parse().expect("a name"),
            hook,
            command: command.split(' ').map(str::to_owned).collect(),
        };
        let with_hooks = DeployAnswer {
            hooks: vec![hook(HookKind::Before, "./migrate up"), hook(HookKind::After, "./notify")],
            ..plan(Some(1), 2, Some(&one), &two)
        };
        expect![[r#"
            shop: release 1 to 2
              ~ web.command: ["a"] -> ["b"]
              ~ web.scale: 1 -> 3
              + worker
                  command: ["w"]
                  env: { A = "1" }
                  resources: { cpu = "250m", memory = "128MiB", pids = 256 }
                  runtime: process
                  scale: 1
                  stop: { grace = "10s" }
              runs hook before of web before its first instance: ./migrate up
              runs hook after of web when it is out: ./notify
        "#]]
        .assert_eq(&plan_text(&with_hooks));
        let (all, was) = ("regions = [\"*\"]\n", "[services.web.region.was]\nscale = 4\n");
        let text = "app = \"shop\"\n[services.web]\nruntime = \"process\"\ncommand = [\"a\"]\n";
        let (here, there) = (definition(text), definition(&format!("{text}{all}{was}")));
        let world = ["fra", "was"].map(|name| name.parse::<insula_types::RegionName>().expect("a name"));
        let chosen = |wanted: &insula_types::RegionSet| {
            let named = world.iter().filter(|region| !wanted.is_usual() || **region == world[0]);
            named.cloned().collect::<BTreeSet<_>>()
        };
        let by_region = DeployAnswer {
            regions: insula_api::regional_changes(Some(&here), &there, chosen),
            ..plan(Some(1), 2, Some(&here), &there)
        };
        expect![[r#"
            shop: release 1 to 2
              + web.regions: ["*"]
              in fra: nothing changes
              in was:
                + web
                    command: ["a"]
                    resources: { cpu = "250m", memory = "128MiB", pids = 256 }
                    runtime: process
                    scale: 4
                    stop: { grace = "10s" }
        "#]]
        .assert_eq(&plan_text(&by_region));
        expect![[r#"
            shop: nothing to change, release 1 is this already
            warning: were node n1 lost, 1 of shop/web would find no place: no room
        "#]]
        .assert_eq(&plan_text(&warned));
        let digest = format!("sha256:{}", "0a".repeat(32));
        let resolved = |service: &str, written: &str, full: &str| ResolvedImage {
            service: service.parse().expect("a label"),
            written: written.to_owned(),
            image: format!("{full}@{digest}"),
        };
        let tags = DeployAnswer {
            resolved: vec![
                resolved("web", "shop:1.2", "docker.io/library/shop:1.2"),
                resolved("worker", "shop:1.2", "docker.io/library/shop:1.2"),
            ],
            ..plan(Some(1), 1, Some(&one), &one)
        };
        expect![[r#"
            shop: nothing to change, release 1 is this already
              image shop:1.2 is now sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a
        "#]]
        .assert_eq(&plan_text(&tags));
        let mut written = definition("app = \"shop\"\n[services.web]\nimage = \"shop:1.2\"\n");
        pin(&mut written, &tags.resolved);
        let image = written.services.values().next().and_then(|service| service.image()).expect("an image");
        assert_eq!(image.to_string(), format!("docker.io/library/shop:1.2@{digest}"));
        expect![[r#"
            shop: new app, release 1
              + web
                  command: ["a"]
                  resources: { cpu = "250m", memory = "128MiB", pids = 256 }
                  runtime: process
                  scale: 1
                  stop: { grace = "10s" }
        "#]]
        .assert_eq(&plan_text(&plan(None, 1, None, &one)));
        expect![[r#"
            shop: release 1 to 2
              ~ web.command: ["a"] -> ["b"]
              ~ web.scale: 1 -> 3
              + worker
                  command: ["w"]
                  env: { A = "1" }
                  resources: { cpu = "250m", memory = "128MiB", pids = 256 }
                  runtime: process
                  scale: 1
                  stop: { grace = "10s" }
        "#]]
        .assert_eq(&plan_text(&plan(Some(1), 2, Some(&one), &two)));
        expect![[r#"
            shop: nothing to change, release 3 is this already
        "#]]
        .assert_eq(&plan_text(&plan(Some(3), 3, Some(&one), &one)));
    }
}
