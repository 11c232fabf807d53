//! The user that an image names: numbers, or names that its own `/etc/passwd` and `/etc/group` explain.
//! As with other engines, a user without a named group is in all those groups that list it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// `/etc/passwd` and `/etc/group` are read up to this size.
const FILE_LEN_MAX: u64 = 1 << 20;

/// Groups of one user, at most: what the kernel takes (`NGROUPS_MAX`) would not fit into a bundle of sensible size.
const GROUPS_MAX: usize = 1024;

/// Who the first process is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    /// Further groups that it is in.
    pub groups: Vec<u32>,
}

/// Resolves `user`, `user:group`, as names or numbers; empty is root.
pub(crate) fn resolve(rootfs: &Path, text: &str) -> Result<User, String> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    if user.is_empty() {
        return Ok(User::default());
    }
    let passwd = read_inside(rootfs, "etc/passwd").map_err(|error| format!("read its /etc/passwd: {error}"))?;
    let entry = find(&passwd, user, 2);
    let uid = match (&entry, user.parse()) {
        (_, Ok(uid)) => uid,
        (Some(entry), _) => number(entry.get(2), "user", user)?,
        (None, _) => return Err(format!("the image has no user {user:?}")),
    };
    let known = || read_inside(rootfs, "etc/group").map_err(|error| format!("read its /etc/group: {error}"));
    let mut further = Vec::new();
    let gid = match group {
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let groups = known()?;
                let entry = find(&groups, group, 2).ok_or_else(|| format!("the image has no group {group:?}"))?;
                number(entry.get(2), "group", group)?
            }
        },
        None => {
            let name = entry.as_ref().map_or(user, |entry| entry[0]);
            further = listing(&known()?, name);
            entry.as_ref().and_then(|entry| entry.get(3)?.parse().ok()).unwrap_or(0)
        }
    };
    further.retain(|group| *group != gid);
    Ok(User { uid, gid, groups: further })
}

/// The line whose name, or whose number in `number_field`, is `key`.
fn find<'a>(text: &'a str, key: &str, number_field: usize) -> Option<Vec<&'a str>> {
    let entries = || text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    entries().find(|entry| entry[0] == key).or_else(|| entries().find(|entry| entry.get(number_field) == Some(&key)))
}

/// The groups that list a user, by name, in a text as `/etc/group` is.
fn listing(groups: &str, user: &str) -> Vec<u32> {
    let lists = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let (number, members) = (fields.next()?.parse().ok()?, fields.next()?);
        members.split(',').any(|member| member == user).then_some(number)
    };
    groups.lines().filter_map(lists).take(GROUPS_MAX).collect()
}

fn number(field: Option<&&str>, what: &str, name: &str) -> Result<u32, String> {
    field.and_then(|field| field.parse().ok()).ok_or_else(|| format!("the image's entry of {what} {name:?} is broken"))
}

/// Reads a file of the image; links in it lead to files of the image, never to the node's.
fn read_inside(rootfs: &Path, name: &str) -> io::Result<String> {
    let root = openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match openat2(root, name, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
        Err(rustix::io::Errno::NOENT) => return Ok(String::new()),
        other => File::from(other?),
    };
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_resolved_inside_the_image() {
        let root = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(root.path().join("etc")).expect("make etc");
        std::fs::write(root.path().join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n")
            .expect("write");
        std::fs::write(
            root.path().join("etc/real"),
            "staff:x:50:root,web\nweb:x:34:web\naudio:x:29:other\nssl:x:102:web\n",
        )
        .expect("write");
        std::os::unix::fs::symlink("/etc/real", root.path().join("etc/group")).expect("link");
        for (text, expected) in [
            ("", Ok((0, 0, &[][..]))),
            ("web", Ok((33, 34, &[50, 102]))),
            ("33", Ok((33, 34, &[50, 102]))),
            ("1000", Ok((1000, 0, &[]))),
            ("web:staff", Ok((33, 50, &[]))),
            ("1000:7", Ok((1000, 7, &[]))),
            ("nobody", Err("the image has no user \"nobody\"".to_owned())),
        ] {
            let expected = expected.map(|(uid, gid, groups)| User { uid, gid, groups: groups.to_vec() });
            assert_eq!(resolve(root.path(), text), expected, "{text:?}");
        }
    }
}
