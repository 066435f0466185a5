//! A real redis-server on a free port, for as long as a test needs it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct RedisServer {
    process: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(free_port(), &[])
    }

    /// With further command line arguments of redis-server.
    pub fn start_with(port: u16, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let process = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(arguments)
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|e| panic!("redis-server does not start ({e}); install it: apt-get install redis-server"));
        let server = Self { process, port, _dir: dir };
        server.wait_until(Duration::from_secs(10), "PONG", |server| server.command("PING").contains("PONG"));
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The raw reply to an inline command; empty when there is none.
    pub fn command(&self, line: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let address = SocketAddr::from(([127, 0, 0, 1], self.port));
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(format!("{line}\r\nQUIT\r\n").as_bytes())?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply)?;
            Ok(reply)
        };
        ask().unwrap_or_default()
    }

    pub fn wait_until(&self, limit: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !condition(self) {
            assert!(started.elapsed() < limit, "redis-server on port {}: no {what} within {limit:?}", self.port);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it from answering; connections stay open.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.process.id().to_string()]).status();
        assert!(status.is_ok_and(|s| s.success()), "kill {signal} failed");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Free for now: nothing keeps another process from taking it.
pub fn free_port() -> u16 {
    // Above 55535 there is no room for the cluster bus, which listens 10,000 higher.
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        if port < 55_535 {
            return port;
        }
    }
}

/// Joins servers that were started with `--cluster-enabled yes`.
pub fn make_cluster(servers: &[RedisServer]) {
    let nodes: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    let made = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(&nodes)
        .arg("--cluster-yes")
        .output()
        .expect("redis-cli, which comes with redis-server");
    assert!(made.status.success(), "no cluster: {}", String::from_utf8_lossy(&made.stdout));
    for server in servers {
        server.wait_until(Duration::from_secs(10), "cluster", |server| {
            server.command("CLUSTER INFO").contains("cluster_state:ok")
        });
    }
}
