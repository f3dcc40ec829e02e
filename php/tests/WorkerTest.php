<?php

declare(strict_types=1);

namespace Roster\Tests;

use PHPUnit\Framework\TestCase;
use Roster\Call;
use Roster\Client;
use Roster\Exception\CallFailed;
use Roster\Exception\CallTimedOut;
use Roster\Exception\NoMaster;
use Roster\Exception\NotReady;
use Roster\Tests\Support\Folder;
use Roster\Tests\Support\Process;
use Roster\Tests\Support\Roster;
use Roster\Tests\Support\Skip;
use Roster\Timeouts;

/** A worker that connects to a real register is listed and called like any other master. */
final class WorkerTest extends TestCase
{
    private Roster $roster;
    private Client $client;
    private Process $worker;
    private Folder $folder;

    protected function setUp(): void
    {
        $this->roster = new Roster(['/zk_test' => 'Hello'], hasRegister: true);
        $this->folder = new Folder();
        $patience = new Timeouts(connectMs: 5_000, readMs: 5_000, totalMs: 10_000);
        $this->client = Client::local($this->roster->socket, '', '', timeouts: $patience);
        $this->worker = $this->roster->worker("tcp://{$this->roster->register}", 'other', '7');
        $this->awaitWorkers(1);
    }

    private function awaitWorkers(int $count): void
    {
        Process::until(fn () => count($this->offering('demo') ?? []) === $count, "$count offer it", 30);
    }

    /** @return ?list<\Roster\Master> null while the register waits for those of before */
    private function offering(string $service, ?Client $client = null): ?array
    {
        try {
            return ($client ?? $this->client)->masters($service);
        } catch (NotReady) {
            return null;
        }
    }

    public function testItIsListedWithItsServicesAndTheirMetadata(): void
    {
        [$code, $listed] = $this->roster->command('masters');
        self::assertSame(0, $code);
        self::assertMatchesRegularExpression('~  1 +0  .*demo@1\.2\.0~', $listed);
        [$instance] = $this->client->instances('demo', maxAge: 10_000);
        self::assertSame(['version' => '1.2.0', 'zone' => 'b', 'weight' => 3], $instance->metadata);
        self::assertEqualsCanonicalizing(['demo', 'other', 7], array_keys($this->client->services()));
        self::assertSame(1, $this->client->call('demo', 'add', [1, 0], metadata: ['zone' => 'b'])->value);
    }

    public function testItIsCalledFromTheCommandLineOverBothListeners(): void
    {
        $unix = $this->roster->worker("unix://{$this->roster->registerSocket}", 'unix');
        $this->awaitWorkers(2);
        self::assertSame([0, "[\"one\",\"ü\"]\n", ''], $this->roster->command('call', 'unix.pair', 'first=one', 'second=ü'));
        self::assertSame([0, "1\nnull\n{\"three\":3}\n", ''], $this->roster->command('call', 'other.values'));
        [$code, , $wrong] = $this->roster->command('call', 'demo.nope');
        self::assertSame(7, $code);
        self::assertStringContainsString("Method 'nope' not found in service 'demo'", $wrong);
        $unix->end(SIGTERM);
        $this->awaitWorkers(1);
    }

    public function testArgumentsAreMatchedAsPhpMatchesThem(): void
    {
        $call = fn (string $method, array $arguments = []) => $this->client->call('demo', $method, $arguments)->value;
        self::assertSame([1, 2], $call('pair', [1, 2]));
        self::assertSame([1, 'none'], $call('pair', [1]));
        self::assertSame([1, 2], $call('pair', ['second' => 2, 'first' => 1]));
        self::assertSame([null, 'x'], $call('pair', ['first' => null, 'second' => 'x']));
        self::assertSame(['first', 'second'], $call('pair', [1 => 'second', 0 => 'first']));
        self::assertSame([1, 'a' => 2], $call('echo', [1, 'a' => 2]));
        self::assertSame(12, $call('add', ['5', 7]), 'a text of digits is a number, as in files that are not strict');
        self::assertSame('static', $call('fixed'));
        self::assertNull($call('nothing'));
        self::assertSame(['shown' => 'yes'], $call('itself'));
        foreach ([[], ['first' => 1, 'third' => 3], [1, 'first' => 2]] as $wrong) {
            self::assertContains($this->failure('pair', $wrong)->className, ['ArgumentCountError', 'Error']);
        }
        self::assertSame('TypeError', $this->failure('add', ['five', 7])->className);
    }

    public function testUnicodeAndBytesAndNumbersAreTheSameAtTheWorkerAndHere(): void
    {
        $odd = ["\xff\x00", 'é', "\u{1F600}", PHP_INT_MIN, PHP_INT_MAX, 0.1, INF, null, [], ['k' => ["\xfe"], 'ü' => true], ''];
        self::assertSame($odd, $this->client->call('demo', 'echo', $odd)->value);
        self::assertSame("\xff\x00\xfe", $this->client->call('other', 'bytes')->value);
        $large = array_map(static fn (int $number) => ["row $number", $number], range(1, 10_000));
        self::assertSame([$large, 'none'], $this->client->call('demo', 'pair', [$large])->value);
        $text = str_repeat('ü', 400_000);
        self::assertSame($text, $this->client->call('demo', 'echo', [$text])->value[0]);
    }

    public function testWhatIsNotPublicOrMagicIsNoMethod(): void
    {
        foreach (['nope', '__construct', '__call', 'hidden', '', "a\0b"] as $method) {
            $error = $this->failure($method);
            self::assertSame(["Method '$method' not found in service 'demo'", 'NotFound'], [
                $error->getMessage(), $error->className,
            ]);
        }
    }

    public function testWhatAMethodThrowsIsItsCallersAlone(): void
    {
        $told = function (string $method, array $arguments = []): array {
            $error = $this->failure($method, $arguments);
            return [$error->className, $error->getMessage(), $error->getCode(), $error->lost];
        };
        self::assertSame(['InvalidArgumentException', 'nö', 3, false], $told('fail', ['nö', 3]));
        self::assertSame(['Exception@anonymous', 'nameless', 4, false], $told('anonymous'));
        self::assertSame(['Exception@anonymous', 'as databases do', 0, false], $told('textCode'));
        self::assertSame('TypeError', $told('error')[0]);
        $long = $told('longMessage')[1];
        self::assertGreaterThan(1_000, strlen($long));
        self::assertSame('x' . str_repeat('ü', intdiv(strlen($long), 2)), $long);
        self::assertSame('the result cannot be sent: there is a Closure in it', $told('closure')[1]);
        self::assertSame('the result cannot be sent: it is larger than a message may be', $told('huge')[1]);
        self::assertSame('the result cannot be sent: it is nested too deeply', $told('deep', [31])[1]);
        self::assertSame('the result cannot be sent: it is nested too deeply', $told('endless')[1]);
        self::assertSame(1, count($this->client->call('demo', 'deep', [30])->value));
        self::assertSame('warned', $this->client->call('demo', 'warn')->value);
        $this->worker->end(SIGTERM);
        self::assertStringContainsString('connected to tcp://', $this->worker->output());
        self::assertSame(1, substr_count($this->worker->output(), 'connected to'), 'the line has held');
    }

    public function testAMethodThatGivesManyValuesStreamsThem(): void
    {
        $stream = fn (string $method, array $arguments = []) => $this->client->stream('demo', $method, $arguments);
        self::assertSame([1, null, ['three' => 3]], iterator_to_array($stream('values')));
        self::assertSame([1, 2], iterator_to_array($stream('iterator')));
        self::assertSame([], iterator_to_array($stream('none')));
        self::assertSame([['one', 'value']], iterator_to_array($stream('collection')));
        $broken = $stream('broken');
        self::assertSame(1, $broken->current());
        try {
            $broken->next();
            self::fail('there was no error');
        } catch (CallFailed $error) {
            self::assertSame(['midway', 'DomainException', 9], [$error->getMessage(), $error->className, $error->getCode()]);
        }
    }

    public function testAValueArrivesBeforeTheNextIsMadeAndOtherCallsGoOnMeanwhile(): void
    {
        $slow = $this->client->stream('demo', 'paced', [1_000, 0.01], timeoutMs: 60_000);
        self::assertSame(1, $slow->current());
        self::assertSame(3, $this->client->call('demo', 'add', [1, 2])->value);
        $slow->next();
        self::assertSame(2, $slow->current());
    }

    public function testWhatIsGivenUpIsEnded(): void
    {
        $file = "{$this->folder->path}/given";
        $stream = $this->client->stream('demo', 'blocks', [1_000_000, 1_000, $file], timeoutMs: 60_000);
        self::assertSame(1_000, strlen($stream->current()));
        unset($stream);
        Process::until(static fn () => is_file("$file.ended"), 'it is ended');
        self::assertSame(3, $this->client->call('demo', 'add', [1, 2])->value);
    }

    public function testASlowReaderMakesAMethodWaitAndNobodyElse(): void
    {
        $file = "{$this->folder->path}/given";
        $this->client->call('demo', 'peak');
        $stream = $this->client->stream('demo', 'blocks', [2_000, 100_000, $file], timeoutMs: 120_000);
        $received = strlen($stream->current());
        $given = static fn () => (int) file_get_contents($file);
        do {
            $before = $given();
            usleep(300_000);
        } while ($given() !== $before);
        self::assertLessThan(500, $before, 'the method waits for its reader');
        self::assertSame(3, $this->client->call('demo', 'add', [1, 2])->value);
        self::assertLessThan(32 << 20, $this->client->call('demo', 'peak')->value);
        for ($stream->next(); $stream->valid(); $stream->next()) {
            $received += strlen($stream->current());
        }
        self::assertSame(200_000_000, $received);
    }

    public function testAMethodThatEndsTheProcessIsLostAndTheAnswersBeforeItAreNot(): void
    {
        $outcomes = $this->client->callInOrder([
            'before' => new Call('demo', 'add', [1, 2]),
            'exit' => new Call('demo', 'leave', timeoutMs: 10_000),
            'after' => new Call('demo', 'add', [1, 2]),
        ]);
        self::assertSame(3, $outcomes['before']->value());
        self::assertInstanceOf(CallFailed::class, $outcomes['exit']->error);
        self::assertTrue($outcomes['exit']->error->lost);
        $this->awaitWorkers(0);
    }

    public function testWhatAMethodEchoesGoesToItsOutputAlone(): void
    {
        $noise = "\x81\xa3cmd\xa3end noise";
        self::assertSame(strrev($noise), $this->client->call('demo', 'speak', [$noise])->value);
        self::assertSame(3, $this->client->call('demo', 'add', [1, 2])->value);
        self::assertSame(2, substr_count($this->worker->output(), $noise));
        self::assertSame(1, substr_count($this->worker->output(), 'connected to'));
    }

    public function testServicesThatComeLaterAreListed(): void
    {
        $this->client->call('demo', 'offer', ['late', ['version' => '3.0.0']]);
        Process::until(fn () => isset($this->client->services()['late']['3.0.0']), 'it is offered');
        self::assertSame(3, $this->client->call('late', 'add', [1, 2], version: '^3')->value);
    }

    public function testItComesBackWhenTheSidecarWasRestarted(): void
    {
        $pid = $this->client->call('demo', 'pid')->value;
        $id = $this->client->masters('demo')[0]->id;
        foreach ([SIGTERM, SIGKILL] as $signal) {
            $this->roster->end($signal);
            $this->roster->start();
            $this->awaitWorkers(1);
            $isBack = function () use ($pid): bool {
                try {
                    return $this->client->call('demo', 'pid', idempotent: true)->value === $pid;
                } catch (CallFailed | CallTimedOut | NoMaster | NotReady) {
                    return false;
                }
            };
            Process::until($isBack, 'it answers again', 30);
            self::assertSame($id, $this->client->masters('demo')[0]->id);
        }
    }

    public function testAWrongTokenIsToldAndTriedAgain(): void
    {
        $command = [PHP_BINARY, __DIR__ . '/Support/worker.php', "tcp://{$this->roster->register}", 'wrong'];
        $worker = new Process($command, "{$this->folder->path}/wrong");
        $isRefused = static fn () => str_contains($worker->output(), 'trying again: refused: Authentication failed');
        Process::until($isRefused, 'it is refused', 30);
        self::assertCount(1, $this->client->masters('demo'));
    }

    public function testItFinishesWhatIsUnderWayWhenItIsStoppedAndRefusesTheRest(): void
    {
        $other = $this->roster->worker("tcp://{$this->roster->register}");
        $this->awaitWorkers(2);
        $slow = $this->client->stream('other', 'paced', [20, 0.05], timeoutMs: 30_000);
        self::assertSame(1, $slow->current());
        posix_kill($this->worker->id, SIGTERM);
        for ($called = 0; $called < 20; $called++) {
            self::assertSame(3, $this->client->call('demo', 'add', [1, 2])->value);
        }
        self::assertSame(range(1, 20), iterator_to_array($slow));
        Process::until(fn () => str_contains($this->worker->output(), "ended\n"), 'it has ended');
        $this->awaitWorkers(1);
        unset($other);
    }

    public function testCallsThatWereGivenUpWhileTheWorkerWasBusyAreNotMade(): void
    {
        $file = $this->folder->file('trace', '');
        $master = $this->client->masters('demo')[0]->id;
        $calls = ['busy' => new Call('demo', 'sleep', [3.0], timeoutMs: 20_000)];
        foreach (range(1, 20) as $number) {
            $calls[$number] = new Call('demo', 'append', [$file, '.'], timeoutMs: 300, retries: 0);
        }
        $outcomes = $this->client->callMany($calls);
        self::assertSame('slept', $outcomes['busy']->value());
        self::assertSame(3, $this->client->callOn($master, 'demo', 'add', [1, 2])->value);
        self::assertSame('', file_get_contents($file));
    }

    public function testItServesByTls(): void
    {
        if (!extension_loaded('openssl')) {
            Skip::because('PHP has no openssl');
        }
        [$ca, $certificate, $key] = $this->certificates();
        $roster = new Roster(
            ['/a' => 'b'],
            true,
            ["register.tls.certificate=$certificate", "register.tls.key=$key"],
        );
        $patience = new Timeouts(connectMs: 5_000, readMs: 5_000, totalMs: 10_000);
        $client = Client::local($roster->socket, '', '', timeouts: $patience);
        $address = 'tls://localhost:' . substr(strrchr($roster->register, ':'), 1);
        $stranger = $roster->worker($address);
        $isRefused = static fn () => str_contains($stranger->output(), 'certificate verify failed');
        Process::until($isRefused, 'the certificate is refused', 30);
        putenv("WORKER_CA=$ca");
        $worker = $roster->worker($address);
        putenv('WORKER_CA');
        Process::until(fn () => count($this->offering('demo', $client) ?? []) === 1, 'it is there', 30);
        $text = str_repeat('x', 900_000);
        self::assertSame($text, $client->call('demo', 'echo', [$text])->value[0]);
        $stream = $client->stream('demo', 'blocks', [100, 100_000], timeoutMs: 60_000);
        $received = 0;
        foreach ($stream as $block) {
            $received += strlen($block);
            usleep(2_000);
        }
        self::assertSame(10_000_000, $received);
        unset($worker);
    }

    /** @return list<string> files of an authority, of a certificate for localhost that it has signed, and its key */
    private function certificates(): array
    {
        $file = fn (string $name) => "{$this->folder->path}/$name";
        $settings = ['config' => $this->folder->file('openssl.cnf', <<<'INI'
            [req]
            distinguished_name = name
            [name]
            [authority]
            basicConstraints = critical, CA:TRUE
            [server]
            basicConstraints = CA:FALSE
            subjectAltName = DNS:localhost
            INI), 'private_key_bits' => 2_048, 'digest_alg' => 'sha256'];
        [$own, $other] = [openssl_pkey_new($settings), openssl_pkey_new($settings)];
        $request = openssl_csr_new(['commonName' => 'an authority'], $own, $settings);
        $authority = openssl_csr_sign($request, null, $own, 7, $settings + ['x509_extensions' => 'authority'], 1);
        $request = openssl_csr_new(['commonName' => 'localhost'], $other, $settings);
        $server = openssl_csr_sign($request, $authority, $own, 7, $settings + ['x509_extensions' => 'server'], 2);
        openssl_x509_export_to_file($authority, $file('ca.pem'));
        openssl_x509_export_to_file($server, $file('server.pem'));
        openssl_pkey_export_to_file($other, $file('key.pem'), null, $settings);
        return [$file('ca.pem'), $file('server.pem'), $file('key.pem')];
    }

    public function testAnotherLoopTicksItWithoutWaiting(): void
    {
        $loop = $this->folder->file('loop.php', <<<'PHP'
            <?php
            [, $autoload, $address, $token] = $argv;
            require $autoload;
            $worker = Roster\Worker::connect($address, token: $token);
            $worker->offer('ticked', new class ($worker) {
                public array $order = [];
                public function __construct(private Roster\Worker $worker) {}
                public function wait() { $this->order[] = 'begins'; Fiber::suspend(); $this->order[] = 'ends'; }
                public function order() { $this->order[] = 'other'; return $this->order; }
                public function leave() { $this->worker->stop(); }
            });
            $slowest = 0;
            while (true) {
                $began = microtime(true);
                $fiber = new Fiber($worker->tick(...));
                $fiber->start();
                $slowest = max($slowest, microtime(true) - $began);
                // The loop goes on while a method waits.
                for ($others = 0; $fiber->isSuspended(); $others++) {
                    $others < 50 ? usleep((int) ($worker->tick() * 1e6)) : $fiber->resume();
                }
                if (($seconds = $fiber->getReturn()) === null) {
                    exit('ended, ' . json_encode([$slowest < 5, $worker->stream()]) . "\n");
                }
                $read = array_filter([$worker->stream()]);
                $none = [];
                $read ? stream_select($read, $none, $none, 0, (int) ($seconds * 1e6)) : usleep((int) ($seconds * 1e6));
            }
            PHP);
        $address = "unix://{$this->roster->registerSocket}";
        $command = [PHP_BINARY, $loop, dirname(__DIR__) . '/autoload.php', $address, Roster::TOKEN];
        $worker = new Process($command, "{$this->folder->path}/ticked");
        Process::until(fn () => count($this->offering('ticked') ?? []) === 1, 'it is listed', 30);
        $outcomes = $this->client->callMany(['wait' => new Call('ticked', 'wait'), 'order' => new Call('ticked', 'order')]);
        self::assertNull($outcomes['wait']->value());
        self::assertContains($outcomes['order']->value(), [['begins', 'ends', 'other'], ['other']]);
        $this->client->call('ticked', 'leave');
        Process::until(static fn () => str_contains($worker->output(), 'ended, [true,null]'), 'it ends');
        Process::until(fn () => $this->offering('ticked') === [], 'it is gone');
    }

    /** @param array<mixed> $arguments */
    private function failure(string $method, array $arguments = []): CallFailed
    {
        try {
            $value = $this->client->call('demo', $method, $arguments)->value;
        } catch (CallFailed $error) {
            return $error;
        }
        self::fail("$method gave " . json_encode($value));
    }
}
