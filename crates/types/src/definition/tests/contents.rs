//! Files, secrets, volumes: what instances are given and may write to.

use expect_test::expect;

use super::*;

#[test]
fn files() {
    check_service(
        r#"IMAGE
files = [
    { path = "/etc/shop.toml", content = "a = 1\n", mode = "0640" },
    { path = "/etc/shop.toml", content = "" },
    { path = "/etc/shop.toml/more", content = "" },
    { path = "/proc/x", content = "" },
    { path = "/dev/shm/x", content = "" },
    { path = "/etc/../x", content = "" },
    { path = "/a", content = "", mode = 644 },
    { path = "/b", content = "", mode = "4755" },
    { path = "/c" },
    { path = "/data/x", content = "" },
    { path = "/tmp", content = "" },
]
volumes = [{ name = "d", path = "/data", size = "1GiB" }]
tmpfs = [{ path = "/tmp" }]"#,
        expect![[r#"
            line 4, column 9: services.web.files: /data/x is in /data, which is one of volumes: what is there is the instance's own; choose another path
            line 4, column 9: services.web.files: /tmp is in /tmp, which is one of tmpfs: what is there is the instance's own; choose another path
            line 6, column 5: services.web.files[1]: /etc/shop.toml is there twice; give each file its own path
            line 7, column 5: services.web.files[2]: /etc/shop.toml and /etc/shop.toml/more cannot both be files: one is in the other
            line 8, column 14: services.web.files[3].path: found "/proc/x": /proc, /sys and /dev are the runtime's own; choose another directory
            line 9, column 14: services.web.files[4].path: found "/dev/shm/x": /dev is the runtime's own; choose another path
            line 10, column 14: services.web.files[5].path: found "/etc/../x": write an absolute path like /data, without empty segments, . or .., and without the final slash
            line 11, column 41: services.web.files[6].mode: found the number 644, expected permissions in octal digits, like "0644" or "0755"
            line 12, column 41: services.web.files[7].mode: found "4755", expected permissions in octal digits, like "0644" or "0755"
            line 13, column 5: services.web.files[8]: the key "content" is missing"#]],
    );
    check_service(
        "runtime = \"process\"\ncommand = [\"x\"]\nfiles = [{ path = \"/a\", content = \"\" }]",
        expect![[
            r#"line 5, column 9: services.web.files: runtime "process" does not have it: a process uses the node as it is; use an image"#
        ]],
    );
    let many = "{ path = \"/N\", content = \"\" },".repeat(65);
    check_service(
        &format!("IMAGE\nfiles = [{many}]"),
        expect!["line 4, column 9: services.web.files: found 65 items, at most 64 are allowed"],
    );
}

#[test]
fn secrets() {
    check_service("IMAGE\nsecrets = [\"DATABASE_URL\", \"KEY\"]\ntmpfs = [{ path = \"/run\" }]", expect!["valid"]);
    check_service("runtime = \"process\"\ncommand = [\"x\"]\nsecrets = [\"A\"]", expect!["valid"]);
    check_service(
        r#"IMAGE
secrets = ["A", "B", "A", "9", "a-b", 3, "INSULA_APP"]
env = { B = "1" }
files = [{ path = "/run/secrets/A", content = "" }]
tmpfs = [{ path = "/run/secrets" }]"#,
        expect![[r#"
            line 4, column 22: services.web.secrets[2]: it is there twice; name it once
            line 4, column 27: services.web.secrets[3]: "9" is no name of a secret: up to 128 letters, digits and underscores, of which the first is no digit, and not beginning with INSULA_, like DATABASE_URL
            line 4, column 32: services.web.secrets[4]: "a-b" is no name of a secret: up to 128 letters, digits and underscores, of which the first is no digit, and not beginning with INSULA_, like DATABASE_URL
            line 4, column 39: services.web.secrets[5]: found the number 3, expected text: write "3"
            line 4, column 42: services.web.secrets[6]: "INSULA_APP" is no name of a secret: up to 128 letters, digits and underscores, of which the first is no digit, and not beginning with INSULA_, like DATABASE_URL
            line 5, column 7: services.web.env: B is a secret, too; take it out of one of both
            line 6, column 9: services.web.files: /run/secrets/A is where the secrets are; choose another path
            line 6, column 9: services.web.files: /run/secrets/A is in /run/secrets, which is one of tmpfs: what is there is the instance's own; choose another path
            line 7, column 9: services.web.tmpfs: /run/secrets is where the secrets are; choose another path"#]],
    );
    check_service(
        "IMAGE\nsecrets = { A = \"value\" }",
        expect!["line 4, column 11: services.web.secrets: found a table, expected a list"],
    );
}

#[test]
fn contents_are_kept_once() {
    let file = r#"files = [{ path = "/etc/a", content = "x" }, { path = "/etc/b", content = "x" }]"#;
    let text = format!("app = \"shop\"\n[services.web]\nimage = \"r.example/shop@{DIGEST}\"\n{file}");
    let definition = AppDefinition::parse(&text, Format::Toml).expect("valid");
    let hash = ContentHash::of("x");
    assert_eq!(definition.contents, BTreeMap::from([(hash, "x".to_owned())]));
    let spec = &definition.services.values().next().expect("one").spec;
    assert_eq!(spec.files.iter().map(|file| file.content).collect::<Vec<_>>(), [hash, hash]);
    assert_eq!(spec.level(), crate::Level(6));
}

#[test]
fn what_a_service_may_write_to() {
    let good = r#"
IMAGE
read_only = true
init = true
tmpfs = [{ path = "/run" }, { path = "/tmp", size = "16MiB" }]
volumes = [{ name = "data", path = "/var/lib/data", size = "1GiB", kind = "local" }]
resources = { files = 1024, disk = "1GiB", io = "20MB/s" }"#;
    check_service(good, expect![["valid"]]);
    let bad = r#"
IMAGE
read_only = "yes"
tmpfs = [{ path = "run/" }, { path = "/proc/x" }, { size = "16MiB" }]
volumes = [
    { name = "data", path = "/data", size = "1GiB", kind = "replicated" },
    { name = "data", path = "/a/../b", size = 5 },
    { name = "data", path = "/x", size = "1KiB" },
    { name = "Data", path = "/y", size = "1GiB", kind = "nfs" },
]
resources = { files = 1, disk = 7, io = "20MB" }"#;
    check_service(
        bad,
        expect![[r#"
        line 5, column 13: services.web.read_only: found "yes", expected true or false
        line 6, column 19: services.web.tmpfs[0].path: found "run/": write an absolute path like /data, without empty segments, . or .., and without the final slash
        line 6, column 38: services.web.tmpfs[1].path: found "/proc/x": /proc, /sys and /dev are the runtime's own; choose another directory
        line 6, column 51: services.web.tmpfs[2]: the key "path" is missing
        line 8, column 60: services.web.volumes[0].kind: not yet: this version does not have "replicated"; valid: local
        line 9, column 29: services.web.volumes[1].path: found "/a/../b": write an absolute path like /data, without empty segments, . or .., and without the final slash
        line 9, column 47: services.web.volumes[1].size: found the number 5, expected a unit with it: write "5MiB"
        line 10, column 5: services.web.volumes[2]: the volume "data" is there twice; give each its own name
        line 10, column 42: services.web.volumes[2].size: found 1KiB, expected from 8MiB to 64TiB
        line 11, column 14: services.web.volumes[3].name: "Data" is not a valid volume name: use lower-case letters, digits and hyphens only
        line 11, column 57: services.web.volumes[3].kind: found "nfs"; valid: local
        line 13, column 23: services.web.resources.files: found the number 1, expected a whole number from 64 to 1048576
        line 13, column 33: services.web.resources.disk: found the number 7, expected a unit with it: write "7MiB"
        line 13, column 41: services.web.resources.io: found "20MB", expected from 64KiB/s to 1TiB/s, like "20MB/s""#]],
    );
    let twice =
        "IMAGE\ntmpfs = [{ path = \"/data\" }]\nvolumes = [{ name = \"d\", path = \"/data\", size = \"1GiB\" }]";
    check_service(
        twice,
        expect!["line 4, column 9: services.web.tmpfs: two directories are mounted at /data; give each its own path"],
    );
    let process = "runtime = \"process\"\ncommand = [\"x\"]\nread_only = true\nresources = { io = \"20MB/s\" }";
    check_service(
        process,
        expect![[r#"
        line 5, column 13: services.web.read_only: runtime "process" does not have it: a process uses the node as it is; use an image
        line 6, column 20: services.web.resources.io: runtime "process" does not have it: a process uses the node as it is; use an image"#]],
    );
}
