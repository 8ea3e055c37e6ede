// Captures a real application's packuments and tarballs from the registry this machine's npm uses, into corpus/ (ignored by git):
//   corpus/NAME.json                     as the registry sent it, for `just bench-engine` and the fuzzers
//   corpus/site/{full,abbreviated}/NAME.json(.gz)  what the benchmark's upstream serves, tarballs under its own address
//   corpus/site/tarballs/NAME/-/….tgz    what the application's lockfile asks for
//   corpus/application/                  the application with a lockfile
// Names given as arguments are captured alone. What is there already is not fetched again. Needs node 20 and npm.
import { execFileSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'

const here = dirname(fileURLToPath(import.meta.url))
const corpus = join(here, '..', 'corpus')
const site = join(corpus, 'site')
// Where `side_by_side.py` lets the upstream listen: tarball URLs in packuments have to name it.
const upstream = 'http://127.0.0.1:4874'
// Documents that are costly, in addition to those of the application.
const large = ['drizzle-orm', 'next', 'npm']
// What the registry's abbreviated form keeps, and `time`, which Coldframe reads there too.
const kept = new Set(['name', 'version', 'deprecated', 'dependencies', 'optionalDependencies', 'devDependencies', 'bundleDependencies',
  'peerDependencies', 'peerDependenciesMeta', 'acceptDependencies', 'bin', 'directories', 'dist', 'engines', 'cpu', 'os', 'libc', 'funding',
  '_hasShrinkwrap', 'hasInstallScript'])

const registry = execFileSync('npm', ['config', 'get', 'registry'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim().replace(/\/$/, '')

async function fetched(url, file) {
  if (existsSync(file)) return readFileSync(file)
  const response = await fetch(url, { headers: { accept: 'application/json' } })
  if (!response.ok) throw new Error(`${response.status} for ${new URL(url).pathname}`)
  const bytes = Buffer.from(await response.arrayBuffer())
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(`${file}.part`, bytes)
  renameSync(`${file}.part`, file)
  return bytes
}

function written(file, text) {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, text)
  writeFileSync(`${file}.gz`, gzipSync(text, { level: 6 }))
}

function abbreviated(document) {
  const { name, 'dist-tags': tags, versions, time } = document
  const short = {}
  for (const [version, manifest] of Object.entries(versions)) {
    const members = Object.entries(manifest).filter(([key]) => kept.has(key))
    short[version] = Object.fromEntries(members)
    const { preinstall, install, postinstall } = manifest.scripts ?? {}
    if (preinstall ?? install ?? postinstall) short[version].hasInstallScript = true
  }
  return { name, 'dist-tags': tags, versions: short, time, modified: time?.modified }
}

async function packument(name) {
  const bytes = await fetched(`${registry}/${name.replace('/', '%2f')}`, join(corpus, `${name.replace('/', '%2f')}.json`))
  const full = join(site, 'full', `${name}.json`)
  if (existsSync(full)) return
  const document = JSON.parse(bytes)
  for (const [version, manifest] of Object.entries(document.versions)) {
    if (manifest.dist) manifest.dist.tarball = `${upstream}/${name}/-/${name.split('/').pop()}-${version}.tgz`
  }
  written(join(site, 'abbreviated', `${name}.json`), JSON.stringify(abbreviated(document)))
  written(full, JSON.stringify(document))
}

async function tarball(name, version) {
  const file = `${name}/-/${name.split('/').pop()}-${version}.tgz`
  await fetched(`${registry}/${file}`, join(site, 'tarballs', file))
}

async function all(jobs) {
  const queue = [...jobs]
  const work = async () => {
    for (let job = queue.shift(); job; job = queue.shift()) await job()
  }
  await Promise.all(Array.from({ length: 8 }, work))
}

function application() {
  const folder = join(corpus, 'application')
  mkdirSync(folder, { recursive: true })
  cpSync(join(here, 'application', 'package.json'), join(folder, 'package.json'))
  if (!existsSync(join(folder, 'package-lock.json'))) {
    execFileSync('npm', ['install', '--package-lock-only', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: folder, stdio: 'inherit' })
  }
  const lock = JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8'))
  return Object.entries(lock.packages).filter(([path]) => path).map(([path, { version }]) => ({ name: path.split('node_modules/').pop(), version }))
}

const asked = process.argv.slice(2)
const locked = asked.length > 0 ? [] : application()
const names = asked.length > 0 ? asked : [...new Set([...locked.map(({ name }) => name), ...large])]
await all([...names.map((name) => () => packument(name)), ...locked.map(({ name, version }) => () => tarball(name, version))])
console.log(`captured ${names.length} packuments and ${locked.length} tarballs`)
