use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use expect_test::{Expect, expect};
use insula_types::{ReleaseNumber, ServiceSpec, definition::Format};

use super::*;

fn digest(of: char) -> String {
    format!("sha256:{}", of.to_string().repeat(64))
}

/// Registries with a few images, of which one never answers.
#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    now: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Registries for Arc<Fake> {
    async fn look_up(&self, tag: &ImageTag) -> Result<ImageRef, Error> {
        self.asked.lock().expect("whole").push(tag.to_string());
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        clock::sleep(Duration::from_millis(10)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        let of = match (tag.registry(), tag.tag()) {
            ("silent.example", _) => std::future::pending().await,
            (_, "1") => digest('a'),
            (_, "latest") => digest('b'),
            _ => {
                let (image, attempt) = (tag.to_string(), "ask for the digest of its tag".to_owned());
                let source = "manifest unknown\u{1b}[31m".repeat(100).into();
                return Err(Error::Pull { image, attempt, source });
            }
        };
        format!("{}@{of}", tag.name()).parse()
    }
}

fn definition(images: &[&str]) -> AppDefinition {
    let mut text = "app = \"shop\"\n".to_owned();
    for (at, image) in images.iter().enumerate() {
        text.push_str(&format!("[services.s{at:02}]\nimage = \"{image}\"\n"));
    }
    AppDefinition::parse(&text, Format::Toml).expect("valid")
}

async fn resolve(fake: &Arc<Fake>, images: &[&str], running: Option<&Release>) -> (Answer<Vec<String>>, Vec<String>) {
    let mut wanted = definition(images);
    let resolved = Tags::new(Arc::clone(fake)).resolve(&mut wanted, running).await;
    let lines = |all: Vec<ResolvedImage>| {
        all.into_iter().map(|one| format!("{}: {} is {}", one.service, one.written, one.image)).collect()
    };
    let images = wanted.services.values().filter_map(|one| Some(one.image()?.to_string()));
    (resolved.map(lines), images.collect())
}

#[tokio::test]
async fn images_get_their_full_names_and_tags_their_digests() {
    let fake = Arc::new(Fake::default());
    let (a, b) = (digest('a'), digest('b'));
    let written = ["nginx", "nginx:latest", "me/shop:1", &format!("r.example:5000/a/b:x@{a}"), &format!("nginx@{a}")];
    let (resolved, images) = resolve(&fake, &written, None).await;
    let full = [
        format!("docker.io/library/nginx:latest@{b}"),
        format!("docker.io/library/nginx:latest@{b}"),
        format!("docker.io/me/shop:1@{a}"),
        format!("r.example:5000/a/b:x@{a}"),
        format!("docker.io/library/nginx@{a}"),
    ];
    assert_eq!(images, full);
    let told = |at: usize| format!("s{at:02}: {} is {}", written[at], full[at]);
    assert_eq!(resolved.expect("all are there"), [told(0), told(1), told(2)]);
    let asked: BTreeSet<_> = fake.asked.lock().expect("whole").iter().cloned().collect();
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), ["docker.io/library/nginx:latest", "docker.io/me/shop:1"]);
    assert_eq!(fake.asked.lock().expect("whole").len(), 2, "each tag once");
    // What has its digest needs no registry.
    let (resolved, again) = resolve(&fake, &[&full[0], &full[2]], None).await;
    assert_eq!((resolved, again), (Ok(Vec::new()), vec![full[0].clone(), full[2].clone()]));
    assert_eq!(fake.asked.lock().expect("whole").len(), 2);
}

#[allow(clippy::needless_pass_by_value, reason = "`expect![…]` is written in place")]
async fn check(images: &[&str], running: Option<&Release>, (code, may_pass): (Code, bool), expected: Expect) {
    let (resolved, after) = resolve(&Arc::default(), images, running).await;
    let problem = resolved.expect_err("something is wrong");
    assert_eq!((problem.code, problem.may_pass), (code, may_pass));
    assert_eq!(after.len(), images.len());
    let lines: Vec<_> = problem.problems.iter().map(ToString::to_string).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn what_stands_for_nothing_is_told_with_the_way() {
    check(
        &["r.example/Shop:1", "nginx:1"],
        None,
        (Code::InvalidDefinition, false),
        expect![[r#"services.s00.image: "r.example/Shop:1" does not name an image: invalid reference format; write it in lower case, like registry.example/team/shop:1.2"#]],
    )
    .await;
    check(&["nginx:2"], None, (Code::UnresolvedImage, true), expect!["services.s00.image: what docker.io/library/nginx:2 is cannot be told: ask for the digest of its tag: manifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown ; write the digest that you mean, docker.io/library/nginx@sha256:…"]).await;
    check(&["silent.example/a", "nginx:1"], None, (Code::UnresolvedImage, true), expect!["services.s00.image: what silent.example/a:latest is cannot be told: silent.example has not answered within 5s; write the digest that you mean, silent.example/a@sha256:…"]).await;
    let spec =
        |of| ServiceSpec { image: Some(format!("docker.io/library/nginx@{}", digest(of))), ..Default::default() };
    let name = |text: &str| text.parse::<ServiceName>().expect("a name");
    let running = Release {
        number: ReleaseNumber(7),
        services: [(name("s00"), spec('c')), (name("web"), spec('d'))].into(),
        tags: [(name("s00"), "3".to_owned()), (name("web"), "2".to_owned())].into(),
        ..Release::default()
    };
    check(&["nginx:2"], Some(&running), (Code::UnresolvedImage, true), expect!["services.s00.image: what docker.io/library/nginx:2 is cannot be told: ask for the digest of its tag: manifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown [31mmanifest unknown ; write docker.io/library/nginx:2@sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd to keep what release 7 runs"]).await;
}

#[test]
fn a_release_that_was_made_before_has_what_tags_stood_for_then() {
    let name = |text: &str| text.parse::<ServiceName>().expect("a name");
    let spec =
        |of| ServiceSpec { image: Some(format!("docker.io/library/nginx@{}", digest(of))), ..Default::default() };
    let release = Release {
        services: [(name("s00"), spec('a')), (name("s01"), spec('b')), (name("s02"), spec('c'))].into(),
        tags: [(name("s00"), "1".to_owned()), (name("s02"), "2".to_owned())].into(),
        ..Release::default()
    };
    let pinned = format!("nginx:9@{}", digest('d'));
    let mut wanted = definition(&["nginx:1", "nginx", "nginx:1", &pinned, "nginx:1"]);
    let told = as_before(&mut wanted, &release).into_iter().map(|one| format!("{} {}", one.written, one.image));
    let full = |tag: &str, of| format!("docker.io/library/nginx:{tag}@{}", digest(of));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [format!("nginx:1 {}", full("1", 'a')), format!("nginx {}", full("latest", 'b'))]
    );
    let images: Vec<_> = wanted.services.values().filter_map(|one| Some(one.image()?.to_string())).collect();
    let expected = [full("1", 'a'), full("latest", 'b'), "nginx:1".to_owned(), pinned, "nginx:1".to_owned()];
    assert_eq!(images, expected, "others have to be looked up");
}

#[tokio::test(start_paused = true)]
async fn many_are_looked_up_a_few_at_a_time_and_all_in_bounded_time() {
    let fake = Arc::new(Fake::default());
    let many: Vec<String> = (0..64).map(|at| format!("r.example/i{at}:1")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(resolve(&fake, &many, None).await.0.expect("all are there").len(), 64);
    assert_eq!(fake.most.load(Ordering::SeqCst), AT_ONCE);
    let silent: Vec<String> = (0..64).map(|at| format!("silent.example/i{at}:1")).collect();
    let silent: Vec<&str> = silent.iter().map(String::as_str).collect();
    let limit = LOOK_UP_LIMIT + Duration::from_millis(100);
    let ended = clock::timeout(limit, resolve(&fake, &silent, None)).await.expect("in time");
    assert_eq!(ended.0.expect_err("silent").problems.len(), 64);
}
