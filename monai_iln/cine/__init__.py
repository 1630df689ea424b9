"""Whole cines: the volume of a ventricle over a beat, tables and pictures of it, and the bundles that segment it."""
