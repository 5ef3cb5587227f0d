//! `plutino serve --hosts` with two processes.

use super::serve::{Folder, Served, free_port};

/// Two processes of one service, each in its own folder. They may start several times.
pub struct Pair {
    pub folders: [Folder; 2],
    hosts: String,
    workers: usize,
}

impl Pair {
    pub fn new(name: &str) -> Pair {
        let folders = [Folder::new(&format!("{name}-0")), Folder::new(&format!("{name}-1"))];
        Pair { folders, hosts: format!("127.0.0.1:{},127.0.0.1:{}", free_port(), free_port()), workers: 1 }
    }

    pub fn with_workers(self, workers: usize) -> Pair {
        Pair { workers, ..self }
    }

    pub fn command(&self, process: usize) -> std::process::Command {
        let mut command = self.folders[process].command();
        command.args(["--log", "warn,plutino=debug", "--hosts", &self.hosts, "--process", &process.to_string()]);
        command.args(["--workers", &self.workers.to_string()]);
        command
    }

    pub async fn start(&self) -> [Served; 2] {
        self.start_with([self.command(0), self.command(1)]).await
    }

    pub async fn start_with(&self, commands: [std::process::Command; 2]) -> [Served; 2] {
        let [first, second] = commands.map(|command| tokio::task::spawn_blocking(move || Served::start(command)));
        [first.await.expect("it starts"), second.await.expect("it starts")]
    }
}
