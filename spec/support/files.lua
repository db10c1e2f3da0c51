--- Files that specs write and read.

local files = {}

--- Writes `text` to a new file, or over an old one, and returns the path.
function files.write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
  return path
end

--- The content of a file; raises where it cannot be read.
function files.content(path)
  local file = assert(io.open(path))
  local text = file:read("*a")
  file:close()
  return text
end

return files
