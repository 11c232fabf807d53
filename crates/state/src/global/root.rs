//! The roots that the world trusts, and what becomes of them.
//!
//! ```text
//! (none) ── founding ──► Active ── another is activated ──► Retiring ── RetireRoot ──► (none)
//! (none) ── AddRoot ──► Trusted ── ActivateRoot ──► Active
//!                       Trusted ── AddRoot of another ──► (none)
//! ```
//! At most one is active, at most one is trusted ahead of its use, at most one retires. What is in a certificate is not
//! looked at here: whoever takes one into use checks it.

use std::collections::BTreeMap;

use insula_types::RegionName;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{GlobalCommand, GlobalKey, GlobalObject, GlobalReply, GlobalState};
use crate::{Changes, Conflict, Rejection};

/// Longest certificate that is kept, in bytes; ours have about 500.
const CERTIFICATE_LEN_MAX: usize = 8 * 1024;

/// How far a root is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RootState {
    /// Nodes shall trust it; nobody shows a chain that leads to it alone.
    Trusted,
    /// Nodes show chains that lead to it; tokens and contexts pin it.
    Active,
    /// It is still trusted, and chains to it are still shown beside the others.
    Retiring,
}

/// A root of the cluster, with the certificates that it gave to regions' CAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrustedRoot {
    /// Its certificate in DER.
    pub certificate: ByteBuf,
    /// How far it is.
    pub state: RootState,
    /// The regions' CAs that it signed, in DER.
    pub regions: BTreeMap<RegionName, ByteBuf>,
    /// When it was added, milliseconds since 1970.
    pub added_ms: u64,
}

type Decision = Result<GlobalReply, Rejection>;

/// Decides on a command about roots.
pub(super) fn decide(
    state: &GlobalState,
    at_ms: u64,
    command: &GlobalCommand,
    out: &mut Changes<GlobalState>,
) -> Decision {
    match command {
        GlobalCommand::AddRoot { hash, root } => add(state, at_ms, hash, root, out),
        GlobalCommand::ActivateRoot { hash } => activate(state, hash, out),
        GlobalCommand::RetireRoot { hash } => retire(state, hash, out),
        GlobalCommand::SetRegionAuthority { root, region, certificate } => {
            set_region(state, root, region, certificate, out)
        }
        _ => Err(Rejection::invalid("it is no command about roots")),
    }
}

pub(super) fn check(certificate: &ByteBuf) -> Result<(), Rejection> {
    if (1..=CERTIFICATE_LEN_MAX).contains(&certificate.len()) {
        return Ok(());
    }
    let found = certificate.len();
    Err(Rejection::invalid(format!("a certificate has {found} bytes, expected 1 to {CERTIFICATE_LEN_MAX}")))
}

fn put(out: &mut Changes<GlobalState>, hash: &str, root: TrustedRoot) {
    out.put(GlobalKey::Root(hash.to_owned()), GlobalObject::Root(root));
}

fn in_state(state: &GlobalState, wanted: RootState) -> Option<(&String, &TrustedRoot)> {
    state.roots.iter().find(|(_, root)| root.state == wanted)
}

fn add(state: &GlobalState, at_ms: u64, hash: &str, root: &TrustedRoot, out: &mut Changes<GlobalState>) -> Decision {
    std::iter::once(&root.certificate).chain(root.regions.values()).try_for_each(check)?;
    if state.roots.contains(&hash.to_owned()) {
        return Ok(GlobalReply::Done);
    }
    let is_first = state.roots.is_empty();
    if is_first != (root.state == RootState::Active) || root.state == RootState::Retiring {
        return Err(Rejection::conflict(
            Conflict::RootOutOfTurn,
            "the first root is active, each further one is only trusted at first",
        ));
    }
    if let Some((retiring, _)) = in_state(state, RootState::Retiring) {
        return Err(Rejection::conflict(
            Conflict::RootOutOfTurn,
            format!("root {retiring} has not gone yet: finish its replacement with `insula ca retire-root`"),
        ));
    }
    // One that was never used, and whose recovery key may never have been seen, gives way.
    if let Some((unused, _)) = in_state(state, RootState::Trusted) {
        out.remove(GlobalKey::Root(unused.clone()));
    }
    put(out, hash, TrustedRoot { added_ms: at_ms, ..root.clone() });
    Ok(GlobalReply::Done)
}

fn known<'a>(state: &'a GlobalState, hash: &str) -> Result<&'a TrustedRoot, Rejection> {
    state.roots.get(&hash.to_owned()).ok_or_else(|| Rejection::not_found(format!("there is no root {hash}")))
}

fn activate(state: &GlobalState, hash: &str, out: &mut Changes<GlobalState>) -> Decision {
    let root = known(state, hash)?;
    match root.state {
        RootState::Active => return Ok(GlobalReply::Done),
        RootState::Retiring => {
            return Err(Rejection::conflict(
                Conflict::RootOutOfTurn,
                format!("root {hash} retires: it is not used again"),
            ));
        }
        RootState::Trusted => {}
    }
    if let Some((before, active)) = in_state(state, RootState::Active) {
        put(out, before, TrustedRoot { state: RootState::Retiring, ..active.clone() });
    }
    put(out, hash, TrustedRoot { state: RootState::Active, ..root.clone() });
    Ok(GlobalReply::Done)
}

fn retire(state: &GlobalState, hash: &str, out: &mut Changes<GlobalState>) -> Decision {
    if known(state, hash)?.state != RootState::Retiring {
        return Err(Rejection::conflict(Conflict::RootOutOfTurn, format!("root {hash} is in use: replace it first")));
    }
    out.remove(GlobalKey::Root(hash.to_owned()));
    Ok(GlobalReply::Done)
}

fn set_region(
    state: &GlobalState,
    hash: &str,
    region: &RegionName,
    certificate: &ByteBuf,
    out: &mut Changes<GlobalState>,
) -> Decision {
    check(certificate)?;
    let mut root = known(state, hash)?.clone();
    root.regions.insert(region.clone(), certificate.clone());
    put(out, hash, root);
    Ok(GlobalReply::Done)
}
