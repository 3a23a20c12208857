"""Compilers of graphs behind one port."""
