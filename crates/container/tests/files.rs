//! What instances are given besides: files of the definition, and secrets.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test program")]

mod support;

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use insula_container::{Exit, InstanceConfig, Runtime};
use insula_types::{ContentHash, FileSpec};
use support::{
    SECRET, container, end, eventually, files_with, image::busybox, log_text, process, tell_secret, with_root,
};

fn give(config: &mut InstanceConfig, path: &str, mode: u32, content: &str) {
    let hash = ContentHash::of(content);
    config.spec.files.push(FileSpec { path: path.to_owned(), mode, content: hash });
    config.contents.files.insert(hash, content.into());
}

#[test]
fn files_are_there_as_they_are_written_down_and_cannot_be_changed() {
    with_root("files", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let script = r#"
            cat /etc/shop/main.toml /etc/hostname /new/directory/of/script
            stat -c '%a %u %g %n' /etc/shop/main.toml /etc/shop/key /new/directory/of/script
            /new/directory/of/script
            echo changed > /etc/shop/main.toml || echo refused
            rm /etc/shop/key || echo kept
            mount -o remount,rw /etc/shop/main.toml 2>/dev/null || echo still read-only
            su nobody -c 'cat /etc/shop/main.toml; cat /etc/shop/key || echo not for nobody'
        "#;
        let mut config = container(1, &image, &["/bin/sh", "-c", script]);
        give(&mut config, "/etc/shop/main.toml", 0o644, "a = 1\n");
        give(&mut config, "/etc/shop/key", 0o400, "");
        give(&mut config, "/etc/passwd", 0o644, "nobody:x:65534:65534::/:/bin/sh\n");
        give(&mut config, "/etc/hostname", 0o644, "mine\n");
        give(&mut config, "/new/directory/of/script", 0o755, "#!/bin/sh\necho it runs\n");
        agent.runtime.start(&config).await.unwrap();
        let home = world.config.data_dir.join("instances").join(config.instance.to_string());
        let mode = fs::metadata(home.join("files/1")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        let record = fs::read_to_string(home.join("instance.json")).unwrap();
        assert!(!record.contains("a = 1"), "{record}");
        let ended = end(&agent.runtime, config.instance).await;
        let log = log_text(&agent.runtime, config.instance).await;
        let said: Vec<&str> =
            log.lines().filter_map(|line| line.split_once(" stdout F ")).map(|(_, text)| text).collect();
        assert_eq!(
            said,
            [
                "a = 1",
                "mine",
                "#!/bin/sh",
                "echo it runs",
                "644 0 0 /etc/shop/main.toml",
                "400 0 0 /etc/shop/key",
                "755 0 0 /new/directory/of/script",
                "it runs",
                "refused",
                "kept",
                "still read-only",
                "a = 1",
                "not for nobody",
            ],
            "{log}"
        );
        assert_eq!(ended.exit, Exit::Code(0));
        agent.runtime.remove(config.instance).await.unwrap();
        assert!(!home.exists());

        // With a root that cannot be written to, where directories have to be made.
        config.spec.is_read_only = true;
        config.spec.command = ["/bin/cat", "/new/directory/of/script"].map(str::to_owned).into();
        agent.runtime.start(&config).await.unwrap();
        assert_eq!(end(&agent.runtime, config.instance).await.exit, Exit::Code(0));
        agent.runtime.remove(config.instance).await.unwrap();

        config.contents.files.clear();
        let refused = agent.runtime.start(&config).await.unwrap_err();
        let why = std::error::Error::source(&refused).unwrap().to_string();
        assert_eq!(why, "what is in /etc/shop/main.toml is not known here");
        assert!(!home.exists(), "nothing is left");
        agent.crash();
    });
}

#[test]
fn secrets_are_told_to_a_container_and_written_to_no_disk() {
    with_root("secrets", async |world| {
        let image = world.registry.push(&busybox());
        let agent = world.open().await;
        agent.runtime.ensure_image(&image).await.unwrap();
        let script = r#"
            [ "$KEY" = "$(cat /run/secrets/KEY)" ] && echo same
            echo ${#KEY}
            stat -c '%a %u %g' /run/secrets/KEY
            echo x > /run/secrets/KEY || echo refused
            echo x > /run/secrets/other || echo refused
            su nobody -c 'cat /run/secrets/KEY || echo not for nobody'
            sleep 1000
        "#;
        let mut config = container(1, &image, &["/bin/sh", "-c", script]);
        give(&mut config, "/etc/passwd", 0o644, "nobody:x:65534:65534::/:/bin/sh\n");
        tell_secret(&mut config);
        agent.runtime.start(&config).await.unwrap();
        let home = world.config.data_dir.join("instances").join(config.instance.to_string());
        let log = eventually("it has told", async || {
            Some(log_text(&agent.runtime, config.instance).await).filter(|log| log.contains("not for nobody"))
        });
        let log = log.await;
        let said: Vec<&str> = log.lines().filter_map(|line| Some(line.split_once(" stdout F ")?.1)).collect();
        assert_eq!(said, ["same", "21", "400 0 0", "refused", "refused", "not for nobody"], "{log}");

        // It is there, where the test below looks: in memory.
        assert!(fs::read_to_string(home.join("bundle/config.json")).unwrap().contains(SECRET));
        assert_eq!(files_with(&world.dir, SECRET), Vec::<PathBuf>::new());
        assert!(!format!("{config:?}").contains(SECRET));
        agent.crash();

        // Who comes later knows as much as it needs.
        let agent = world.open().await;
        agent.runtime.stop(config.instance, Some("SIGKILL"), std::time::Duration::ZERO).await.unwrap();
        agent.runtime.remove(config.instance).await.unwrap();
        assert!(!home.exists());

        // One that cannot be started leaves nothing.
        config.spec.command = vec!["/no/such/program".to_owned()];
        let error = agent.runtime.start(&config).await.unwrap_err();
        assert!(!format!("{error:?} {error}").contains(SECRET));
        assert!(!home.exists());
        assert_eq!(files_with(&world.dir, SECRET), Vec::<PathBuf>::new());
        agent.crash();
    });
}

#[test]
fn secrets_are_told_to_a_process_and_written_to_no_disk() {
    with_root("secrets-process", async |world| {
        let agent = world.open().await;
        let mut config = process(1, &["/bin/sh", "-c", "echo ${#KEY}; sleep 1000"]);
        tell_secret(&mut config);
        agent.runtime.start(&config).await.unwrap();
        let told = async || log_text(&agent.runtime, config.instance).await.contains("F 21\n").then_some(());
        eventually("it has told", told).await;
        assert_eq!(files_with(&world.dir, SECRET), Vec::<PathBuf>::new());
        agent.runtime.stop(config.instance, Some("SIGKILL"), std::time::Duration::ZERO).await.unwrap();
        agent.runtime.remove(config.instance).await.unwrap();
        agent.crash();
    });
}
