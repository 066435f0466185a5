//! Deleting by tag: the tag sets, what vouches for an entry being in them, and telling others.

use futures::{StreamExt, TryStreamExt, stream};
use redis::Script;

use super::{BUCKETS, RedisEntries, owner_id, tracking};
use crate::store::redis::Live;
use crate::types::{EntryKey, Error, ErrorKind, Owner, Result, Tag};

/// Entries one script deletes: it holds up everybody else on its node.
const DELETED_AT_ONCE: usize = 500;
/// Scripts of one deletion that are under way at the same time.
const DELETIONS_AT_ONCE: usize = 16;

/// KEYS: the tag set, then entries; ARGV: the tag's id, then their members in the set. Gives the places of those that
/// had the tag.
pub(super) fn deletion_script() -> Script {
    Script::new(
        "local gone = {}
         for i = 2, #KEYS do
             local tags = redis.call('HGET', KEYS[i], 't')
             if tags and string.find(tags, ARGV[1], 1, true) then
                 redis.call('DEL', KEYS[i])
                 gone[#gone + 1] = i - 2
             end
             redis.call('ZREM', KEYS[1], ARGV[i])
         end
         return gone",
    )
}

/// 32 hexadecimal digits.
pub(super) fn tag_id(owner: &Owner, tag: &Tag) -> String {
    let hash = blake3::hash(format!("{}\n{tag}", owner_id(owner)).as_bytes());
    hash.to_hex()[..32].to_owned()
}

impl RedisEntries {
    pub(super) fn tag_set(&self, bucket: u8, tag_id: &str) -> String {
        format!("{}:t:{{{bucket}}}:{tag_id}", self.prefix)
    }

    /// Whether deletion by any tag of the entry would find it.
    pub(super) async fn is_deletable(&self, connection: &mut Live, key: &EntryKey, tag_ids: &str) -> Result<bool> {
        let bucket = key.as_bytes()[0] % BUCKETS;
        let mut pipe = redis::pipe();
        for tag_id in tag_ids.split(',') {
            pipe.cmd("ZSCORE").arg(self.tag_set(bucket, tag_id)).arg(&key.as_bytes()[..]);
        }
        let scores: Vec<Option<f64>> = pipe.query_async(connection).await?;
        Ok(scores.iter().all(Option::is_some))
    }

    /// Deletes the owner's entries with that tag, and tells everybody who keeps some.
    pub(super) async fn delete_tagged(&self, owner: &Owner, tag: &Tag) -> Result<Vec<EntryKey>> {
        let tag_id = &tag_id(owner, tag);
        let buckets = stream::iter((0..BUCKETS).map(|bucket| self.delete_tagged_in(bucket, tag_id)));
        let gone = buckets.buffer_unordered(DELETIONS_AT_ONCE).try_concat().await?;
        // Afterwards, so that nobody reads an entry again that is still to be deleted.
        self.announce_deletion(owner, tag).await?;
        Ok(gone)
    }

    async fn delete_tagged_in(&self, bucket: u8, tag_id: &str) -> Result<Vec<EntryKey>> {
        let set = self.tag_set(bucket, tag_id);
        let mut connection = self.connection.get()?;
        let members: Vec<Vec<u8>> = redis::cmd("ZRANGE").arg(&set).arg(0).arg(-1).query_async(&mut connection).await?;
        let mut gone = Vec::new();
        for members in members.chunks(DELETED_AT_ONCE) {
            let keys: Vec<_> = members.iter().map(|member| key_of(member)).collect::<Result<_>>()?;
            let mut call = self.deletion.key(&set);
            call.arg(tag_id);
            for (key, member) in keys.iter().zip(members) {
                call.key(self.entry_key(key)).arg(member);
            }
            let indices: Vec<usize> = call.invoke_async(&mut connection).await?;
            gone.extend(indices.into_iter().filter_map(|i| keys.get(i).copied()));
        }
        Ok(gone)
    }

    /// Tells everybody who keeps entries with that tag, those that Redis itself cannot name any more among them.
    async fn announce_deletion(&self, owner: &Owner, tag: &Tag) -> Result<()> {
        let key = tracking::deletion_key(&self.prefix, owner, tag);
        let mut pipe = redis::pipe();
        // Changes are what is reported; nothing needs to stay.
        pipe.atomic().cmd("SET").arg(&key).arg("").ignore().cmd("DEL").arg(&key).ignore();
        Ok(pipe.query_async(&mut self.connection.get()?).await?)
    }
}

fn key_of(member: &[u8]) -> Result<EntryKey> {
    let bytes = member.try_into().map_err(|_| Error::new(ErrorKind::Corrupt, "a tag set holds a malformed key"))?;
    Ok(EntryKey::from_bytes(bytes))
}
