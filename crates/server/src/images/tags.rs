//! Tags of images: looked up once, when something is deployed. What a release holds is digests, so nothing that is done with it
//! later asks a registry what a tag stands for.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use insula_api::{Answer, Code, Problem, wire::ResolvedImage};
use insula_container::{Error, ImageRef, ImageTag, NodeRuntime};
use insula_env::clock;
use insula_telemetry::chain;
use insula_types::{AppDefinition, DefinitionProblem, ImageName, Release, ServiceName};
use tokio::sync::Semaphore;

/// How long all images of a definition may take together. With the change itself it has to fit into a caller's patience.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(5);
/// Images that are looked up at the same time, for all callers of a node together.
const AT_ONCE: usize = 16;
/// Longest answer of a registry that is told, in characters: it is text of others.
const ANSWER_LEN_MAX: usize = 300;

/// What is wrong with most names that look like one and are none.
const LOWER_CASE: &str = "write it in lower case, like registry.example/team/shop:1.2";

/// Registries, as far as tags are concerned.
#[async_trait]
pub(crate) trait Registries: Send + Sync {
    /// What a tag stands for now. Bounded in time by the caller.
    async fn look_up(&self, tag: &ImageTag) -> Result<ImageRef, Error>;
}

#[async_trait]
impl Registries for NodeRuntime {
    async fn look_up(&self, tag: &ImageTag) -> Result<ImageRef, Error> {
        self.resolve_tag(tag).await
    }
}

/// Looks tags up.
pub(crate) struct Tags<R> {
    registries: R,
    room: Semaphore,
}

/// Why a tag stands for nothing.
struct Unknown {
    why: String,
    may_pass: bool,
}

impl<R: Registries> Tags<R> {
    pub(crate) fn new(registries: R) -> Self {
        Self { registries, room: Semaphore::new(AT_ONCE) }
    }

    /// Gives each image its one full name, `registry/repository@sha256:…`, and looks up those that have no digest. Services that
    /// name the same tag get the same digest. `running`: the release that runs, to say what it has of a tag that stands for
    /// nothing.
    ///
    /// # Errors
    /// [`Code::InvalidDefinition`] for what is no name, [`Code::UnresolvedImage`] for tags that stand for nothing or whose registry
    /// does not answer in time. Both with all problems; their lines are not known here.
    pub(crate) async fn resolve(
        &self,
        definition: &mut AppDefinition,
        running: Option<&Release>,
    ) -> Answer<Vec<ResolvedImage>> {
        let mut wrong = Vec::new();
        let mut asked: BTreeMap<ServiceName, (ImageName, ImageTag)> = BTreeMap::new();
        for (name, service) in &mut definition.services {
            let Some(written) = service.image() else { continue };
            match full(&written) {
                Ok(Full::Content(image)) => service.set_image(image),
                Ok(Full::Tag(tag)) => drop(asked.insert(name.clone(), (written, tag))),
                Err(error) => wrong.push(problem(name, format!("{error}; {LOWER_CASE}"))),
            }
        }
        if !wrong.is_empty() {
            return Err(refused(Code::InvalidDefinition, wrong));
        }
        let found = self.look_up(asked.values().map(|(_, tag)| tag)).await;
        let (mut resolved, mut may_pass) = (Vec::new(), true);
        for (name, (written, tag)) in asked {
            let answer = found.get(&tag);
            match (answer, definition.services.get_mut(&name)) {
                (Some(Ok(image)), Some(service)) => {
                    let image = ImageName::of_release(&image.to_string(), Some(&tag.tag().to_owned()));
                    resolved.push(ResolvedImage {
                        service: name,
                        written: written.to_string(),
                        image: image.to_string(),
                    });
                    service.set_image(image);
                }
                (Some(Err(unknown)), _) => {
                    may_pass &= unknown.may_pass;
                    wrong.push(problem(&name, said(&tag, &unknown.why, running, &name)));
                }
                _ => {}
            }
        }
        if wrong.is_empty() {
            return Ok(resolved);
        }
        Err(Problem { may_pass, ..refused(Code::UnresolvedImage, wrong) })
    }

    async fn look_up<'t>(
        &self,
        tags: impl Iterator<Item = &'t ImageTag>,
    ) -> BTreeMap<ImageTag, Result<ImageRef, Unknown>> {
        let mut found: BTreeMap<_, _> = tags.map(|tag| (tag.clone(), Err(late(tag)))).collect();
        let one = |tag: ImageTag| async move {
            let _room = self.room.acquire().await;
            let answer = self.registries.look_up(&tag).await.map_err(|error| unknown(&error));
            (tag, answer)
        };
        let all: Vec<_> = found.keys().cloned().map(one).collect();
        let mut answers = stream::iter(all).buffer_unordered(AT_ONCE);
        let take_all = async {
            while let Some((tag, answer)) = answers.next().await {
                found.insert(tag, answer);
            }
        };
        // Who has not answered until then is told as late.
        let _ = clock::timeout(LOOK_UP_LIMIT, take_all).await;
        found
    }
}

/// Gives images that have no digest what a release has of their tags: that which was made of the same definition before.
pub(crate) fn as_before(definition: &mut AppDefinition, release: &Release) -> Vec<ResolvedImage> {
    let mut resolved = Vec::new();
    for (name, service) in &mut definition.services {
        let (Some(written), Some(has)) = (service.image(), release.image_of(name)) else { continue };
        let Ok(Full::Tag(tag)) = full(&written) else { continue };
        // Releases that were made before all programs knew of tags have none.
        if has.name == tag.name() && has.tag.as_deref().is_none_or(|known| known == tag.tag()) {
            let image = ImageName { tag: Some(tag.tag().to_owned()), ..has };
            resolved.push(ResolvedImage {
                service: name.clone(),
                written: written.to_string(),
                image: image.to_string(),
            });
            service.set_image(image);
        }
    }
    resolved
}

/// What a definition names.
enum Full {
    /// An image by what is in it.
    Content(ImageName),
    /// What has to be looked up.
    Tag(ImageTag),
}

/// By its one full name: short names and tags beside a digest are other words for the same content, and whoever counts copies and
/// releases of an image compares names.
fn full(written: &ImageName) -> Result<Full, Error> {
    let ImageName { name, tag, digest } = written;
    if digest.is_none() {
        return written.to_string().parse().map(Full::Tag);
    }
    let image: ImageRef = ImageName { name: name.clone(), tag: None, digest: digest.clone() }.to_string().parse()?;
    Ok(Full::Content(ImageName::of_release(&image.to_string(), tag.as_ref())))
}

fn late(tag: &ImageTag) -> Unknown {
    let why = format!("{} has not answered within {LOOK_UP_LIMIT:?}", tag.registry());
    Unknown { why, may_pass: true }
}

fn unknown(error: &Error) -> Unknown {
    let why = match error {
        Error::Pull { attempt, source, .. } => format!("{attempt}: {}", chain(&**source)),
        other => chain(other),
    };
    let why = why.chars().map(|c| if c.is_control() { ' ' } else { c });
    Unknown { why: why.take(ANSWER_LEN_MAX).collect(), may_pass: !error.is_answer() }
}

/// What is wrong, and what to do.
fn said(tag: &ImageTag, why: &str, running: Option<&Release>, service: &ServiceName) -> String {
    let same = |(of, release): (&ServiceName, &Release)| {
        let image = release.image_of(of)?;
        let is_same = image.name == tag.name() && image.tag.as_deref() == Some(tag.tag());
        is_same.then(|| format!("write {image} to keep what release {} runs", release.number))
    };
    let running = running.and_then(|release| {
        let own = std::iter::once(service).filter(|own| release.services.contains_key(*own));
        own.chain(release.services.keys()).find_map(|of| same((of, release)))
    });
    let way = running.unwrap_or_else(|| format!("write the digest that you mean, {}@sha256:…", tag.name()));
    format!("what {tag} is cannot be told: {why}; {way}")
}

fn problem(service: &ServiceName, message: String) -> DefinitionProblem {
    DefinitionProblem { path: format!("services.{service}.image"), line: 0, column: 0, message }
}

fn refused(code: Code, problems: Vec<DefinitionProblem>) -> Problem {
    let count = problems.len();
    Problem { problems, ..Problem::new(code, format!("{count} to correct; nothing was changed")) }
}

#[cfg(test)]
mod tests;
