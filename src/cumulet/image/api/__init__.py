# SPDX-License-Identifier: Apache-2.0
"""The image API: every operation is one row of this table.

Source: the Image API reference (v2).
"""

from __future__ import annotations

from cumulet.image.answers import ANSWERS
from cumulet.image.api import cache, data, discovery, images, locations, members, metadefs, owned, tasks
from cumulet.image.schemas import CREATE, LOCATION
from cumulet.kernel.http.body import Body
from cumulet.kernel.http.route import Route, returning

_IMAGE = "/v2/images/{image_id}"

ROUTES = returning(ANSWERS, [
    Route("GET /", discovery.versions, public=True, ok=300),
    Route("GET /versions", discovery.versions, public=True),
    Route("GET /v2", discovery.versions, public=True, ok=300),
    Route("POST /v2/images", images.create, policy="add_image", late=True, body=CREATE, ok=201),
    Route("GET /v2/images", images.index, policy="get_images"),
    Route(f"GET {_IMAGE}", images.show, policy="get_image", target=images.target),
    Route(f"PATCH {_IMAGE}", images.update, policy="modify_image", late=True, target=images.target, raw=True),
    Route(f"DELETE {_IMAGE}", images.delete, policy="delete_image", target=images.deletable, ok=204),
    Route(f"PUT {_IMAGE}/tags/{{tag}}", images.add_tag, policy="modify_image", target=images.named, ok=204),
    Route(f"DELETE {_IMAGE}/tags/{{tag}}", images.remove_tag, policy="modify_image", target=images.named, ok=204),
    Route(f"POST {_IMAGE}/actions/deactivate", images.deactivate, policy="deactivate", target=images.target, ok=204),
    Route(f"POST {_IMAGE}/actions/reactivate", images.reactivate, policy="reactivate", target=images.target, ok=204),
    Route(f"PUT {_IMAGE}/file", data.upload, policy="upload_image", target=images.target, raw=True, ok=204),
    Route(f"GET {_IMAGE}/file", data.download, policy="download_image", late=True, target=images.target),
    Route(f"PUT {_IMAGE}/stage", data.stage, policy="modify_image", target=images.target, raw=True, ok=204),
    Route(
        f"POST {_IMAGE}/import", data.import_image, policy="modify_image", late=True, target=images.target,
        body=Body(None, raw={"type": "object"}), ok=202,
    ),
    Route(f"GET {_IMAGE}/tasks", tasks.of_image, policy="get_image", target=images.target),
    Route(f"POST {_IMAGE}/locations", locations.add, policy="add_image_location", target=images.target,
          body=LOCATION, ok=202),
    Route(f"GET {_IMAGE}/locations", locations.index, policy="fetch_image_location", target=images.target),
    Route("DELETE /v2/stores/{store_id}/{image_id}", data.drop_from_store,
          policy="delete_image_location", target=images.stored, ok=204),
    Route(f"POST {_IMAGE}/members", members.create, policy="add_member", target=images.named,
          body=Body(None, raw={"type": "object"})),
    Route(f"GET {_IMAGE}/members", members.index, policy="get_members", target=images.named),
    Route(f"GET {_IMAGE}/members/{{member_id}}", members.show, policy="get_member", target=images.named),
    Route(f"PUT {_IMAGE}/members/{{member_id}}", members.update, policy="modify_member", late=True, target=images.named,
          body=Body(None, raw={"type": "object"})),
    Route(f"DELETE {_IMAGE}/members/{{member_id}}", members.delete, policy="delete_member", target=images.named,
          ok=204),
    Route("POST /v2/tasks", tasks.create, policy="tasks_api_access", body=Body(None, raw={"type": "object"}), ok=201),
    Route("GET /v2/tasks", tasks.index, policy="tasks_api_access"),
    Route("GET /v2/tasks/{task_id}", tasks.show, policy="tasks_api_access"),
    Route("DELETE /v2/tasks/{task_id}", tasks.delete, policy="tasks_api_access"),
    Route("GET /v2/cache", cache.index, policy="cache_list"),
    Route("DELETE /v2/cache", cache.clear, policy="cache_delete", ok=204),
    Route("POST /v2/cache/clean", cache.clean, policy="cache_clean"),
    Route("POST /v2/cache/prune", cache.prune, policy="cache_prune"),
    Route("PUT /v2/cache/{image_id}", cache.queue, policy="cache_image", target=cache.target, ok=202),
    Route("DELETE /v2/cache/{image_id}", cache.delete, policy="cache_delete", target=cache.target, ok=204),
    Route("GET /v2/cache/nodes/{image_id}", cache.nodes, policy="list_cached_nodes"),
    Route("GET /v2/schemas/{name}", discovery.schema, policy="default"),
    Route("GET /v2/info/import", discovery.import_methods, policy="default"),
    Route("GET /v2/info/stores", discovery.stores, policy="default"),
    Route("GET /v2/info/stores/detail", discovery.stores_detail, policy="stores_info_detail"),
    Route("GET /v2/info/usage", discovery.usage, policy="default"),
    *metadefs.ROUTES,
    *owned.ROUTES,
])  # fmt: skip
