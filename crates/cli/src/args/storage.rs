//! Images and volumes.

use clap::{Args, Subcommand};
use insula_types::{ByteSize, SnapshotName, VolumeRef};

use super::JsonArgs;

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List volumes, where they are, and which instances have them
    Ls(JsonArgs),
    /// Set a volume aside on a node, before an instance needs it: the instance then goes there
    Create(VolumeCreateArgs),
    /// Make a volume larger, also while it is in use
    Resize(VolumeResizeArgs),
    /// Delete a volume with all that is in it; one that an instance has is refused
    Rm(VolumeRmArgs),
    /// Copy a volume on its own disk, list such copies, go back to one, or delete it. None is a backup elsewhere
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
}

#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// List snapshots, and what they take of which disks
    Ls(SnapshotLsArgs),
    /// Copy a volume, also while it is in use: its instance cannot write meanwhile, for eight seconds at most
    Create(SnapshotCreateArgs),
    /// Give a volume back what it had; refused while an instance has it
    Restore(SnapshotRestoreArgs),
    /// Delete a snapshot
    Rm(SnapshotRmArgs),
}

#[derive(Debug, Args)]
pub struct SnapshotLsArgs {
    /// Only those of this volume, by its exact name
    pub volume: Option<VolumeRef>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct SnapshotCreateArgs {
    /// The exact name of the volume, as `insula volume ls` shows it
    pub volume: VolumeRef,
    /// What the snapshot is called, like before-upgrade [default: the time, like 20261122-211305]
    pub snapshot: Option<SnapshotName>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct SnapshotRestoreArgs {
    /// The exact name of the volume, as `insula volume ls` shows it
    pub volume: VolumeRef,
    /// The exact name of the snapshot, as `insula volume snapshot ls` shows it
    pub snapshot: SnapshotName,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct SnapshotRmArgs {
    /// The exact name of the volume, which may be there no more
    pub volume: VolumeRef,
    /// The exact name of the snapshot, as `insula volume snapshot ls` shows it
    pub snapshot: SnapshotName,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
pub struct VolumeCreateArgs {
    /// Its name, like shop/db/data.0: app, service, the volume in the definition, and which instance's
    pub volume: VolumeRef,
    /// Node that is to have it, by exact name or id
    #[arg(long)]
    pub node: String,
    /// Its size, like 5GiB
    #[arg(long)]
    pub size: ByteSize,
}

#[derive(Debug, Args)]
pub struct VolumeResizeArgs {
    /// Its exact name, as `insula volume ls` shows it
    pub volume: VolumeRef,
    /// Its new size, like 10GiB; never smaller than it is
    pub size: ByteSize,
}

#[derive(Debug, Args)]
pub struct VolumeRmArgs {
    /// Its exact name, as `insula volume ls` shows it
    pub volume: VolumeRef,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images, the nodes that have them, and the releases that need them
    Ls(JsonArgs),
    /// Bring an image to the cluster without a registry; prints the reference to write into a definition
    Import(ImageImportArgs),
    /// Remove an image from all nodes; one that may have to run is refused
    Rm(ImageRmArgs),
}

#[derive(Debug, Args)]
pub struct ImageImportArgs {
    /// What `docker save` wrote, an OCI image layout as a tar file or as a directory; - reads standard input
    pub file: String,
    /// What the image shall be called, like shop or registry.example/shop [default: as the archive says]
    #[arg(long)]
    pub name: Option<String>,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub struct ImageRmArgs {
    /// Its exact reference, with digest, as `insula image ls` shows it
    pub image: String,
}
