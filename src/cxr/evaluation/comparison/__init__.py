"""Which runs differ, and is it shown?"""
