//! Metadata of models in S3.

use std::sync::Arc;

use super::{File, Files, Found, read};
use crate::models::Inner;
use crate::models::error::ModelError;
use crate::models::http::head;
use crate::models::s3::client::{Object, S3, refused};
use crate::models::s3::{Objects, look};

/// Objects, by what follows their common prefix.
struct Named<'a> {
    inner: &'a Arc<Inner>,
    s3: &'a S3,
    objects: Vec<(String, Object)>,
}

impl Files for Named<'_> {
    async fn begin(&self, name: &str, most: usize) -> Result<Vec<u8>, ModelError> {
        let found = self.objects.iter().find(|(other, _)| other == name);
        let (_, object) = found.ok_or_else(|| ModelError::lost("looked for an object"))?;
        let request = || Ok(self.s3.get(self.inner.client()?, &object.key, &object.etag));
        head(self.inner.limits, request, &object.key, most, refused).await
    }
}

pub(super) async fn find(inner: &Arc<Inner>, wanted: Objects) -> Result<Found, ModelError> {
    let s3 = S3::new(inner, &wanted.bucket)?;
    let prefix = wanted.key.trim_end_matches('/');
    let (objects, is_dir) = look(&Arc::new(S3::new(inner, &wanted.bucket)?), &wanted, prefix).await?;
    let name = |object: &Object| {
        let below = if is_dir { object.key.strip_prefix(prefix) } else { object.key.rsplit('/').next() };
        below.unwrap_or(&object.key).trim_start_matches('/').to_owned()
    };
    let objects: Vec<(String, Object)> = objects.into_iter().map(|object| (name(&object), object)).collect();
    let listed: Vec<File> =
        objects.iter().map(|(name, object)| File { name: name.clone(), size: Some(object.size) }).collect();
    read(&listed, &wanted.purpose, &Named { inner, s3: &s3, objects }).await
}
