//! `plutino token`: its tokens are accepted by the REST API and the data server.

use std::process::{Command, Output};

use tokio::net::TcpStream;

use crate::process::serve::{Folder, Served};
use crate::secure::{RULE, STREAM, ask, data_address, shake};

fn plutino(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    command.args(arguments).current_dir(&folder.0).output().expect("the binary starts")
}

/// A token of the command line.
fn token(folder: &Folder, arguments: &[&str]) -> String {
    let made = plutino(folder, &[&["token", "create"], arguments].concat());
    assert!(made.status.success(), "{made:?}");
    String::from_utf8(made.stdout).expect("a token is text").trim_end().to_owned()
}

async fn streams(served: &Served, token: &str) -> (u16, String) {
    ask(served, "GET", "/streams", &format!("Authorization: Bearer {token}\r\n"), "").await
}

#[tokio::test]
async fn tokens_of_each_kind_of_key_are_accepted() {
    let folder = Folder::new("tokens");
    for (file, kind) in [("one.key", "ed25519"), ("two.key", "p256")] {
        let made = plutino(&folder, &["token", "key", file, "--kind", kind]);
        assert!(made.status.success(), "{made:?}");
        let again = plutino(&folder, &["token", "key", file]);
        assert_eq!(again.status.code(), Some(1), "a key is not written over");
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(folder.path("one.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    folder.write("three.key", include_str!("../keys/issuer.key"));
    folder.write("three.pub", include_str!("../keys/issuer.pub"));
    std::fs::create_dir_all(folder.path("etc/mgmt")).unwrap();
    for file in ["one.pub", "two.pub", "three.pub"] {
        std::fs::copy(folder.path(file), folder.path(format!("etc/mgmt/{file}"))).unwrap();
    }
    folder.write(
        "etc/plutino.yaml",
        "basic: {authentication: true}\nsource: {httpServerJwt: {keys: [one.pub, two.pub, three.pub], audience: board}}",
    );
    let served = folder.serve();
    let good = token(&folder, &["--key", "one.key"]);
    let authorization = format!("Authorization: Bearer {good}\r\n");
    assert_eq!(ask(&served, "POST", "/streams", &authorization, STREAM).await.0, 201);
    assert_eq!(ask(&served, "POST", "/rules", &authorization, RULE).await.0, 201);
    let data = data_address(&served);
    for key in ["one.key", "two.key", "three.key"] {
        for expires in ["12h", "never"] {
            let both = [
                "--key",
                key,
                "--expires",
                expires,
                "--audience",
                "eKuiper",
                "--audience",
                "board",
                "--subject",
                "ann",
            ];
            let both = token(&folder, &both);
            assert_eq!(streams(&served, &both).await, (200, "[\"demo\"]".to_owned()), "{key}");
            let shaken =
                shake(TcpStream::connect(&data).await.unwrap(), &format!("/out?access_token={both}"), "").await;
            assert_eq!(shaken, 101, "{key}");
        }
        let foreign = token(&folder, &["--key", key, "--audience", "other"]);
        assert_eq!(streams(&served, &foreign).await.0, 401);
        let shaken = shake(TcpStream::connect(&data).await.unwrap(), &format!("/out?access_token={foreign}"), "").await;
        assert_eq!(shaken, 401, "{key}");
        let stranger = token(&folder, &["--key", key, "--issuer", "nobody.pub"]);
        assert!(streams(&served, &stranger).await.1.contains("not found target key file"));
    }
    // The operator sees why a token is refused; the client does not.
    let foreign = token(&folder, &["--key", "one.key", "--audience", "other"]);
    let refused = shake(TcpStream::connect(&data).await.unwrap(), &format!("/out?access_token={foreign}"), "").await;
    assert_eq!(refused, 401);
    let overview = ask(&served, "GET", "/overview", &authorization, "").await.1;
    assert!(overview.contains("the token's aud is not in source.httpServerJwt.audience"), "{overview}");
    // A key cannot sign for the issuer of another one.
    let forged = token(&folder, &["--key", "one.key", "--issuer", "two.pub"]);
    assert!(streams(&served, &forged).await.1.contains("another kind"));
}

#[test]
fn mistakes_are_named() {
    let folder = Folder::new("tokens-mistakes");
    folder.write("no.key", "not a key");
    for (arguments, code, expected) in [
        (&["create", "--key", "no.key"][..], 1, "no private key in PEM form"),
        (&["create", "--key", "nowhere.key"], 1, "nowhere.key: "),
        (&["create", "--key", "no.key", "--claim", "exp=1"], 2, "exp is set by --expires"),
        (&["create", "--key", "no.key", "--expires", "soon"], 2, "expected a duration"),
        (&["key", "no.pub"], 2, "would be both keys"),
    ] {
        let said = plutino(&folder, &[&["token"], arguments].concat());
        let text = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(code), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
