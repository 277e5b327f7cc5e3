//! The link on real pseudo-terminals.

use std::os::unix::fs::symlink;

use tokio_serial::SerialPort as _;

use super::*;

/// A pseudo-terminal that plays a plugged-in device.
struct Device {
    master: SerialStream,
    /// Keeps the terminal alive while nobody else has it open.
    slave: SerialStream,
}

impl Device {
    fn new() -> Self {
        let (master, slave) = SerialStream::pair().expect("a pseudo-terminal");
        Self { master, slave }
    }

    /// Plugs it in under a name that lasts, as udev does.
    fn plug(self, name: &Path) -> Self {
        let path = self.slave.name().expect("a slave has a name");
        if name.is_symlink() {
            fs::remove_file(name).expect("removed");
        }
        symlink(path, name).expect("linked");
        self
    }

    async fn say(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).await.expect("written");
    }

    async fn hear(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        let all = self.master.read_exact(&mut bytes);
        timeout(DEADLINE, all).await.expect("in time").expect("read");
        bytes
    }
}

/// Far above what anything here takes; only a failure waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

async fn next(link: &mut Link) -> Event {
    timeout(DEADLINE, link.next()).await.expect("in time").expect("the task lives")
}

async fn bytes(link: &mut Link, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        match next(link).await {
            Event::Bytes(bytes) => all.extend(bytes),
            other => panic!("{other:?}"),
        }
    }
    all
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let name = folder.path().join("usb-device");
    (folder, name)
}

#[tokio::test]
async fn bytes_go_both_ways_unchanged() {
    let (_folder, name) = folder();
    let mut device = Device::new().plug(&name);
    let mut link = Link::spawn(Settings::new(&name));
    assert_eq!(next(&mut link).await, Event::Opened);
    // Every byte value: a terminal that is not raw would change some of them.
    let every: Vec<u8> = (0..=255).collect();
    device.say(&every).await;
    assert_eq!(bytes(&mut link, 256).await, every);
    assert!(link.writer().write(every.clone()));
    assert_eq!(device.hear(256).await, every);
    assert_eq!(link.writer().dropped(), 0);
}

#[tokio::test]
async fn unplugged_in_the_middle_and_plugged_in_again() {
    let (_folder, name) = folder();
    let mut device = Device::new().plug(&name);
    let mut link = Link::spawn(Settings::new(&name));
    assert_eq!(next(&mut link).await, Event::Opened);
    device.say(b"half a fr").await;
    assert_eq!(bytes(&mut link, 9).await, b"half a fr");
    fs::remove_file(&name).expect("udev removes the name");
    drop(device);
    assert_eq!(next(&mut link).await, Event::Gone(LinkError::Unplugged));
    assert_eq!(next(&mut link).await, Event::Gone(LinkError::NotFound));
    let mut device = Device::new().plug(&name);
    assert_eq!(next(&mut link).await, Event::Opened, "NotFound is said once");
    device.say(b"whole").await;
    assert_eq!(bytes(&mut link, 5).await, b"whole");
}

#[tokio::test]
async fn a_second_opener_is_told_that_the_port_is_in_use() {
    let (_folder, name) = folder();
    let device = Device::new().plug(&name);
    let mut first = Link::spawn(Settings::new(&name));
    assert_eq!(next(&mut first).await, Event::Opened);
    let mut second = Link::spawn(Settings::new(&name));
    assert_eq!(next(&mut second).await, Event::Gone(LinkError::Busy));
    drop(first);
    assert_eq!(next(&mut second).await, Event::Opened, "free again, taken over");
    drop(device);
}

#[tokio::test]
async fn things_that_are_no_port_are_named() {
    let (folder, name) = folder();
    fs::write(folder.path().join("file"), b"").expect("written");
    let eight = Settings::new(&name);
    let table = [
        (Settings::new(&name), LinkError::NotFound),
        (Settings::new(folder.path().join("file")), LinkError::NotASerialPort),
        (Settings::new("/dev/null"), LinkError::NotASerialPort),
        (Settings { data_bits: 9, ..eight.clone() }, LinkError::Settings),
        (Settings { stop_bits: 3, ..eight }, LinkError::Settings),
    ];
    for (settings, expected) in table {
        let mut link = Link::spawn(settings.clone());
        assert_eq!(next(&mut link).await, Event::Gone(expected), "{settings:?}");
        assert!(!expected.to_string().is_empty());
    }
}

#[tokio::test]
async fn a_device_that_does_not_read_neither_stops_reading_nor_fills_memory() {
    let (_folder, name) = folder();
    let mut device = Device::new().plug(&name);
    let mut link = Link::spawn(Settings::new(&name));
    assert_eq!(next(&mut link).await, Event::Opened);
    let writer = link.writer();
    let mut refused = 0;
    // More than the terminal's own buffer and the queue together hold.
    for _ in 0..10 * WRITE_QUEUE {
        refused += u64::from(!writer.write(vec![0; 4096]));
        tokio::task::yield_now().await;
    }
    assert!(refused > 0 && writer.dropped() >= refused);
    device.say(b"still here").await;
    assert_eq!(bytes(&mut link, 10).await, b"still here");
}

#[tokio::test]
async fn a_reader_that_does_not_read_makes_the_device_wait() {
    let (_folder, name) = folder();
    let mut device = Device::new().plug(&name);
    let mut link = Link::spawn(Settings::new(&name));
    assert_eq!(next(&mut link).await, Event::Opened);
    let flood = vec![b'x'; 64 * 1024];
    let mut sent = 0usize;
    let most = EVENT_QUEUE * READ_BYTES * 4;
    // The queue is bounded in events, each at most READ_BYTES: the flood stops by itself.
    while sent < most {
        match timeout(Duration::from_millis(500), device.master.write(&flood)).await {
            Ok(count) => sent += count.expect("written"),
            Err(_stuck) => break,
        }
    }
    assert!(sent < most, "{sent} bytes were taken without a reader");
    let mut got = 0;
    while got < sent {
        got += bytes(&mut link, 1).await.len();
    }
    assert_eq!(got, sent, "and none was lost");
}

#[tokio::test]
async fn a_port_that_is_not_there_is_said_once() {
    let (_folder, name) = folder();
    let mut link = Link::spawn(Settings::new(&name));
    assert_eq!(next(&mut link).await, Event::Gone(LinkError::NotFound));
    // It is tried again after 0.1 s and 0.3 s; nothing new comes of it.
    let more = timeout(Duration::from_millis(600), link.next()).await;
    assert!(more.is_err(), "{more:?}");
}

#[test]
fn ports_are_listed_under_their_lasting_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let dev = fs::canonicalize(folder.path()).expect("canonical");
    fs::create_dir_all(dev.join("serial/by-id")).expect("created");
    for name in ["ttyUSB0", "ttyUSB1", "ttyACM0", "ttyS0", "null"] {
        fs::write(dev.join(name), b"").expect("written");
    }
    let id = dev.join("serial/by-id/usb-FTDI_A1-if00");
    symlink("../../ttyUSB0", &id).expect("linked");
    symlink("../../ttyUSB9", dev.join("serial/by-id/usb-gone")).expect("linked");
    let ports = ports_in(&dev);
    let listed: Vec<_> = ports.iter().map(|port| (&port.path, &port.device)).collect();
    let (acm, one, zero) = (dev.join("ttyACM0"), dev.join("ttyUSB1"), dev.join("ttyUSB0"));
    assert_eq!(listed, [(&id, &zero), (&acm, &acm), (&one, &one)]);
    assert_eq!(lasting_path_in(&dev, &zero), id);
    assert_eq!(lasting_path_in(&dev, &one), one);
    assert_eq!(lasting_path_in(&dev, &dev.join("ttyUSB7")), dev.join("ttyUSB7"));
}

#[tokio::test]
async fn a_remote_port_is_a_link_like_any_other() {
    let (mut link, mut remote) = Link::remote();
    remote.events.send(Event::Opened).await.unwrap();
    assert_eq!(link.next().await, Some(Event::Opened));
    let writer = link.writer();
    assert!(writer.write(vec![1]));
    assert_eq!(remote.writes.recv().await, Some(vec![1]));
    for _ in 0..WRITE_QUEUE {
        assert!(writer.write(vec![2]));
    }
    assert!(!writer.write(vec![3]), "the queue is full");
    assert_eq!(writer.dropped(), 1);
    drop((link, writer));
    assert!(remote.events.is_closed());
    remote.writes.close();
    while remote.writes.recv().await.is_some() {}
}
