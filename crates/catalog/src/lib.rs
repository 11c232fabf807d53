//! A node's own copy of what its traffic needs: who is in the region, where the instances are, which routes lead to
//! them. Edge and mesh read nothing else, so they serve with every control plane down, across a restart too.
//!
//! Always: a catalog in use has passed [`Catalog::check`]; one that did not is named to its sender and the last good one
//! stays (rule R2); within one incarnation of the region's state the revision never goes back.
//! Left to others: `server` derives and pushes on change; `edge` and `mesh` decide what to do with it.

mod check;
mod derive;
mod far;
mod file;
pub mod frame;
mod holder;
pub mod link;
mod model;

pub use check::{CheckError, limits};
pub use far::{Digest, FarGateway, FarRegion, FarService, Heard, mark};
pub use file::{CatalogFile, FileError};
pub use holder::{Holder, Offered};
pub use model::{Catalog, CatalogInstance, CatalogNode, CatalogService, RouteTarget};
