"""``ctx.storage``: where one object's file and its gates meet."""
